"""Gates: verdicts, reasons in words and figures, and how often chance lets a bad candidate through."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.config import AccuracyParams, SloParams
from slipway.decisions.gates import accuracy_gate, combine, regression_gate, slo_gates, timing_gate
from slipway.records import Decision, Timing, Verdict
from tests.unit.decisions.builders import bounded, counted, interval, latency, timing, verdict

POLICY = AccuracyParams(metric="top1", max_drop=0.01, confidence=0.95)


def simulated(n: int, lost: float, gained: float, trials: int = 2000) -> dict[Verdict, float]:
    """Share of each verdict over candidates that lose and gain each example with these probabilities."""
    rng = np.random.default_rng(7)
    counts = Counter((int(b), int(c)) for b, c, _ in rng.multinomial(n, [lost, gained, 1 - lost - gained], size=trials))
    shares = dict.fromkeys(Verdict, 0.0)
    for (b, c), times in counts.items():
        shares[accuracy_gate(POLICY, counted(n, b, c)).verdict] += times / trials
    return shares


@pytest.mark.parametrize(("n", "lost", "gained"), [(300, 0.03, 0.02), (1000, 0.03, 0.02), (2000, 0.012, 0.002)])
def test_candidate_exactly_at_the_margin_passes_and_fails_rarely(n: int, lost: float, gained: float) -> None:
    shares = simulated(n, lost, gained)
    assert shares[Verdict.PASS] <= 0.065
    assert shares[Verdict.FAIL] <= 0.065


def test_clearly_equal_candidate_passes() -> None:
    assert simulated(5000, 0.02, 0.02)[Verdict.PASS] >= 0.95


def test_clearly_worse_candidate_fails() -> None:
    shares = simulated(2000, 0.05, 0.01)
    assert shares[Verdict.FAIL] >= 0.99
    assert shares[Verdict.PASS] == 0


def test_too_few_examples_are_inconclusive() -> None:
    assert simulated(100, 0.002, 0.002)[Verdict.INCONCLUSIVE] >= 0.95


def test_accuracy_within_the_margin_passes_with_figures() -> None:
    assert accuracy_gate(POLICY, bounded(0.002, -0.003, 0.0067)) == verdict(
        Verdict.PASS, "top1 drop <= 0.0067 (bound at 95%) is within max_drop 0.0100 (n=1000)"
    )


def test_accuracy_beyond_the_margin_fails_with_figures() -> None:
    assert accuracy_gate(POLICY, bounded(0.03, 0.0134, 0.05)) == verdict(
        Verdict.FAIL, "top1 drop >= 0.0134 (bound at 95%) exceeds max_drop 0.0100 (n=1000)"
    )


def test_undecided_accuracy_tells_how_many_examples_would_decide() -> None:
    decision = accuracy_gate(POLICY, counted(50, 0, 0))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "about 268 examples would decide if the drop stays 0.0000" in decision.reasons[0]


def test_accuracy_on_the_margin_says_that_no_number_of_examples_helps() -> None:
    decision = accuracy_gate(POLICY, counted(1000, 10, 0))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "more than 10,000,000 examples" in decision.reasons[0]


def test_bounds_that_equal_the_margin_pass_above_and_do_not_fail_below() -> None:
    assert accuracy_gate(POLICY, bounded(0.005, 0.0, 0.01)).verdict is Verdict.PASS
    assert accuracy_gate(POLICY, bounded(0.02, 0.01, 0.03)).verdict is Verdict.INCONCLUSIVE


def test_accuracy_without_numbers_is_an_error() -> None:
    assert accuracy_gate(POLICY, bounded(math.nan, math.nan, math.nan)).verdict is Verdict.ERROR


@pytest.mark.parametrize("policy", [AccuracyParams(metric="auroc"), AccuracyParams(confidence=0.99)])
def test_accuracy_measured_under_another_policy_is_an_error(policy: AccuracyParams) -> None:
    """Bounds at 95% must not answer for a policy that asks for 99%."""
    decision = accuracy_gate(policy, bounded(0.0, 0.0, 0.0))
    assert decision.verdict is Verdict.ERROR
    assert decision.reasons[0].endswith("found top1 at 0.95; validate again")


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.floats(0, 0.5))
def test_a_laxer_margin_never_turns_a_pass_into_anything_else(counts: tuple[int, int], max_drop: float) -> None:
    n, lost = counts
    accuracy = counted(n, lost, 0)
    strict = accuracy_gate(AccuracyParams(max_drop=max_drop), accuracy)
    lax = accuracy_gate(AccuracyParams(max_drop=max_drop + 0.1), accuracy)
    assert strict.verdict is not Verdict.PASS or lax.verdict is Verdict.PASS
    assert lax.verdict is not Verdict.FAIL or strict.verdict is Verdict.FAIL


def test_settled_timing_passes() -> None:
    assert timing_gate(timing()).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "timed", [timing(latency(settled=False)), timing(reference=latency(settled=False))], ids=["candidate", "reference"]
)
def test_timing_that_never_settled_is_inconclusive_and_tells_the_load(timed: Timing) -> None:
    decision = timing_gate(timed)
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "load 0.5 before, 3.2 after, steal 12.5%" in decision.reasons[0]


def test_only_what_was_demanded_is_gated() -> None:
    assert slo_gates(SloParams(), timing(), 10**12) == {}
    everything = SloParams(latency_p99_ms=50, throughput_per_s=1, size_mb=1)
    assert set(slo_gates(everything, timing(), 1)) == {"latency_p99_ms", "throughput_per_s", "size_mb"}


@pytest.mark.parametrize(
    ("slo", "expected", "figures"),
    [
        (SloParams(latency_p99_ms=9), Verdict.PASS, "p99 latency 9 ms is within the 9 ms demanded"),
        (SloParams(latency_p99_ms=8.9), Verdict.FAIL, "p99 latency 9 ms exceeds the 8.9 ms demanded"),
        (SloParams(throughput_per_s=320), Verdict.PASS, "throughput 320/s at batch 8 meets the 320/s demanded"),
        (SloParams(throughput_per_s=321), Verdict.FAIL, "throughput 320/s at batch 8 is below the 321/s demanded"),
        (SloParams(size_mb=2), Verdict.PASS, "size 2 MB is within the 2 MB demanded"),
        (SloParams(size_mb=1.9), Verdict.FAIL, "size 2 MB exceeds the 1.9 MB demanded"),
    ],
)
def test_each_demand_is_met_or_not(slo: SloParams, expected: Verdict, figures: str) -> None:
    assert list(slo_gates(slo, timing(), 2_000_000).values()) == [verdict(expected, figures)]


def test_p99_from_too_few_samples_is_inconclusive() -> None:
    gates = slo_gates(SloParams(latency_p99_ms=50), timing(latency(p99_ms=None, samples=400)), 1)
    assert gates["latency_p99_ms"].verdict is Verdict.INCONCLUSIVE
    assert "needs 662 samples, found 400" in gates["latency_p99_ms"].reasons[0]


def test_throughput_that_was_not_measured_is_inconclusive() -> None:
    gates = slo_gates(SloParams(throughput_per_s=1), timing(throughput_per_s={}), 1)
    assert gates["throughput_per_s"].verdict is Verdict.INCONCLUSIVE


def test_unsettled_times_neither_meet_nor_miss_a_demand_but_size_does() -> None:
    demands = SloParams(latency_p99_ms=1, throughput_per_s=1, size_mb=1)
    gates = slo_gates(demands, timing(latency(settled=False)), 1)
    assert [gate.verdict for gate in gates.values()] == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.PASS]


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (0.95, 1.1, Verdict.PASS),
        (0.94, 1.1, Verdict.INCONCLUSIVE),
        (0.90, 0.95, Verdict.INCONCLUSIVE),
        (0.90, 0.94, Verdict.FAIL),
    ],
)
def test_regression_is_judged_by_the_interval_of_the_speed_ratio(lower: float, upper: float, expected: Verdict) -> None:
    decision = regression_gate(0.05, interval((lower + upper) / 2, lower, upper))
    assert decision is not None
    assert decision.verdict is expected
    assert f"({lower:.3f} to {upper:.3f})" in decision.reasons[0]


def test_without_a_champion_there_is_no_regression_to_judge() -> None:
    assert regression_gate(0.05, None) is None


def test_no_gate_at_all_is_an_error() -> None:
    assert combine({}) == verdict(Verdict.ERROR, "no gate was evaluated")


def test_all_passing_gates_pass_and_tell_every_reason() -> None:
    gates = {"accuracy": verdict(Verdict.PASS, "within"), "timing": verdict(Verdict.PASS, "settled")}
    assert combine(gates) == verdict(Verdict.PASS, "accuracy: within", "timing: settled")


def test_reasons_are_those_of_what_did_not_pass_worst_first() -> None:
    gates = {
        "timing": verdict(Verdict.INCONCLUSIVE, "unsettled"),
        "size_mb": verdict(Verdict.PASS, "small"),
        "accuracy": verdict(Verdict.FAIL, "dropped", "twice"),
        "speed": verdict(Verdict.ERROR),
    }
    assert combine(gates) == verdict(
        Verdict.ERROR, "speed: ERROR", "accuracy: dropped", "accuracy: twice", "timing: unsettled"
    )


def test_skipped_beside_pass_is_skipped() -> None:
    gates = {"a": verdict(Verdict.PASS, "yes"), "b": verdict(Verdict.SKIPPED, "unsupported")}
    assert combine(gates).verdict is Verdict.SKIPPED


@given(st.dictionaries(st.text(min_size=1), st.sampled_from(Verdict)))
def test_only_gates_that_all_pass_combine_to_pass(verdicts: dict[str, Verdict]) -> None:
    gates = {name: Decision(verdict=value, reasons=("why",)) for name, value in verdicts.items()}
    assert (combine(gates).verdict is Verdict.PASS) == (set(verdicts.values()) == {Verdict.PASS})
