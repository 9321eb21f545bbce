"""Gates: verdicts, and reasons in words and figures."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.config import AccuracyParams, SloParams
from slipway.decisions.gates import accuracy_gate, combine, regression_gate, slo_gates, timing_gate
from slipway.records import Accuracy, Decision, Scenario, Throughput, Timing, Verdict
from tests.unit.decisions.builders import bounded, counted, interval, latency, timing, verdict

POLICY = AccuracyParams(metric="top1", max_drop=0.01, confidence=0.95)


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


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (-0.003, 0.0089, Verdict.PASS),
        (-0.003, 0.0095, Verdict.INCONCLUSIVE),
        (-0.003, 0.0300, Verdict.INCONCLUSIVE),
        (0.0095, 0.0300, Verdict.FAIL),
        (0.0200, 0.0300, Verdict.FAIL),
    ],
)
def test_min_ratio_is_that_share_of_the_reference(lower: float, upper: float, expected: Verdict) -> None:
    """99% of 0.9 leaves 0.009, which is stricter than max_drop 0.010."""
    policy = AccuracyParams(max_drop=0.01, min_ratio=0.99)
    assert accuracy_gate(policy, bounded(0.008, lower, upper)).verdict is expected


@pytest.mark.parametrize("policy", [AccuracyParams(max_drop=0.5, min_ratio=0.99), AccuracyParams(max_drop=0.009)])
def test_whichever_rule_is_stricter_decides(policy: AccuracyParams) -> None:
    assert accuracy_gate(policy, bounded(0.005, 0.0, 0.0089)).verdict is Verdict.PASS
    assert accuracy_gate(policy, bounded(0.005, 0.0, 0.0091)).verdict is Verdict.INCONCLUSIVE
    assert accuracy_gate(policy, bounded(0.020, 0.0091, 0.04)).verdict is Verdict.FAIL


def test_a_min_ratio_laxer_than_max_drop_changes_nothing_but_is_told() -> None:
    decision = accuracy_gate(AccuracyParams(max_drop=0.01, min_ratio=0.9), bounded(0.02, 0.0134, 0.05))
    assert decision == verdict(Verdict.FAIL, "top1 drop >= 0.0134 (bound at 95%) exceeds max_drop 0.0100 (n=1000)")
    passed = accuracy_gate(AccuracyParams(max_drop=0.01, min_ratio=0.9), bounded(0.002, -0.003, 0.0067))
    assert passed == verdict(
        Verdict.PASS,
        "top1 drop <= 0.0067 (bound at 95%) is within max_drop 0.0100 and "
        "min_ratio 0.9 (a drop of 0.09 from 0.9) (n=1000)",
    )


def test_both_rules_are_told_where_both_are_broken_or_undecided() -> None:
    policy = AccuracyParams(max_drop=0.01, min_ratio=0.999)
    failed = accuracy_gate(policy, bounded(0.03, 0.0134, 0.05)).reasons[0]
    assert "exceeds max_drop 0.0100 and min_ratio 0.999 (a drop of 0.0009 from 0.9)" in failed
    undecided = accuracy_gate(policy, bounded(0.0, -0.02, 0.02)).reasons[0]
    assert "on both sides of max_drop 0.0100 and min_ratio 0.999" in undecided
    half = accuracy_gate(policy, bounded(0.0, -0.02, 0.005)).reasons[0]
    assert "on both sides of min_ratio 0.999" in half


def test_the_number_of_examples_is_that_of_the_stricter_rule() -> None:
    """z^2 (1 - 0.001) / 0.001 = 2703 examples without a difference show a drop of at most 0.1%; 268 show 1%."""
    decision = accuracy_gate(AccuracyParams(max_drop=0.01, min_ratio=0.999), counted(50, 0, 0))
    assert "about 2,703 examples would decide" in decision.reasons[0]


@pytest.mark.parametrize(("upper", "expected"), [(0.0039, Verdict.PASS), (0.0041, Verdict.INCONCLUSIVE)])
def test_of_an_error_min_ratio_allows_as_large_a_share_more(upper: float, expected: Verdict) -> None:
    """99% of an error of 0.4: at most 0.404."""
    error = bounded(0.001, -0.002, upper, metric="mae").model_copy(update={"reference_value": 0.4, "value": 0.401})
    assert accuracy_gate(AccuracyParams(metric="mae", max_drop=1, min_ratio=0.99), error).verdict is expected


@pytest.mark.parametrize("reference", [0.0, -0.5, math.nan])
def test_a_share_of_a_reference_that_is_not_positive_is_an_error_and_no_pass(reference: float) -> None:
    accuracy = bounded(-0.9, -0.95, -0.85).model_copy(update={"reference_value": reference})
    decision = accuracy_gate(AccuracyParams(min_ratio=0.99), accuracy)
    assert decision.verdict is Verdict.ERROR
    assert "policy asks for 0.99 of the reference's top1" in decision.reasons[0]
    assert accuracy_gate(AccuracyParams(), accuracy).verdict is Verdict.PASS


@given(st.floats(0, 0.1), st.floats(0, 0.1), st.floats(0.5, 1), st.floats(0.01, 1))
def test_with_min_ratio_a_pass_means_that_both_rules_hold(
    lower: float, width: float, min_ratio: float, reference: float
) -> None:
    accuracy = bounded(lower, lower, lower + width).model_copy(update={"reference_value": reference})
    both = accuracy_gate(AccuracyParams(max_drop=0.05, min_ratio=min_ratio), accuracy)
    allowed = min(0.05, (1 - min_ratio) * reference)
    assert (both.verdict is Verdict.PASS) == (lower + width <= allowed)
    assert (both.verdict is Verdict.FAIL) == (lower > allowed and lower + width > allowed)


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        (bounded(0.002, -0.003, 0.0067), Verdict.PASS),
        (bounded(0.03, 0.0134, 0.05), Verdict.FAIL),
        (bounded(0.008, 0.0, 0.05), Verdict.INCONCLUSIVE),
    ],
)
def test_changed_answers_and_the_worst_class_are_told(accuracy: Accuracy, expected: Verdict) -> None:
    seen = {"flips": 1234, "worst_class": "class 3: 91.0% -> 89.0% (n=100)"}
    decision = accuracy_gate(POLICY, accuracy.model_copy(update=seen))
    assert decision.verdict is expected
    assert decision.reasons[0].endswith("; 1,234 answers changed; worst is class 3: 91.0% -> 89.0% (n=100)")


GIVEN_UP = bounded(0.9, 0.45, 1.0, n=24).model_copy(update={"available": 10_000, "flips": 22})


def test_a_candidate_given_up_fails_and_says_after_how_many_examples() -> None:
    assert accuracy_gate(POLICY, GIVEN_UP) == verdict(
        Verdict.FAIL,
        "top1 drop >= 0.4500 (a bound for stopping early) exceeds max_drop 0.0100; "
        "given up after 24 of 10,000 examples; 22 answers changed",
    )


@pytest.mark.parametrize("max_drop", [0.45, 0.5, 1.0])
def test_a_candidate_given_up_under_a_stricter_policy_is_validated_again(max_drop: float) -> None:
    """Its 24 examples say too little for a PASS, even where its upper bound is within the new limit."""
    decision = accuracy_gate(AccuracyParams(max_drop=max_drop), GIVEN_UP)
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "given up after 24 of 10,000 examples; validate again" in decision.reasons[0]


def test_a_candidate_given_up_is_held_against_the_stricter_rule_too() -> None:
    assert accuracy_gate(AccuracyParams(max_drop=0.5, min_ratio=0.99), GIVEN_UP).verdict is Verdict.FAIL
    assert accuracy_gate(AccuracyParams(max_drop=0.5, min_ratio=0.3), GIVEN_UP).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("available", [None, 1000])
def test_a_candidate_compared_on_all_examples_was_not_given_up(available: int | None) -> None:
    whole = bounded(0.002, -0.003, 0.0067).model_copy(update={"available": available})
    assert accuracy_gate(POLICY, whole).verdict is Verdict.PASS


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


@pytest.mark.parametrize(
    ("p99_ms", "lower", "upper", "expected", "figures"),
    [
        (20, 15, 49, Verdict.PASS, "p99 latency 20 ms (15 to 49 at 95%, 700 samples) is within the 50 ms demanded"),
        (50, 15, 50, Verdict.PASS, "p99 latency 50 ms (15 to 50 at 95%, 700 samples) is within the 50 ms demanded"),
        (20, 15, 80, Verdict.PASS, "is within the 50 ms demanded, though its interval exceeds the 50 ms demanded"),
        (51, 15, 80, Verdict.INCONCLUSIVE, "exceeds the 50 ms demanded, which its interval does not settle"),
        (51, 50, 80, Verdict.INCONCLUSIVE, "measure for longer or on a quieter host"),
        (60, 50.1, 80, Verdict.FAIL, "p99 latency 60 ms (50.1 to 80 at 95%, 700 samples) exceeds the 50 ms demanded"),
    ],
)
def test_p99_passes_by_its_value_and_fails_by_its_whole_interval(
    p99_ms: float, lower: float, upper: float, expected: Verdict, figures: str
) -> None:
    own = latency(p99_ms=p99_ms).model_copy(update={"p99_interval_ms": interval(p99_ms, lower, upper)})
    gate = slo_gates(SloParams(latency_p99_ms=50), timing(own), 1)["latency_p99_ms"]
    assert gate.verdict is expected
    assert figures in gate.reasons[0]
    assert ("though" in gate.reasons[0]) == (p99_ms <= 50 < upper)


@pytest.mark.parametrize(("p99_ms", "lower", "upper"), [(20, 15, 30), (60, 55, 80), (60, 40, 80)])
def test_unsettled_times_decide_nothing_by_their_interval_either(p99_ms: float, lower: float, upper: float) -> None:
    interval_ms = interval(p99_ms, lower, upper)
    own = latency(p99_ms=p99_ms, settled=False).model_copy(update={"p99_interval_ms": interval_ms})
    gate = slo_gates(SloParams(latency_p99_ms=50), timing(own), 1)["latency_p99_ms"]
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert gate.reasons[0].endswith("but latency never settled")


def under_load(name: Literal["single-stream", "server", "offline"] = "server", **changes: Any) -> Timing:
    """The usual timing (p99 9 ms, 320/s) beside a run of LoadGen: p99 30 ms, 150/s."""
    run = Scenario(
        name=name,
        percentile=99,
        latency_ms=30.0,
        examples_per_s=150.0,
        queries=4096,
        valid=True,
        target_per_s=160.0,
        tool="LoadGen 6.0",
    )
    return timing().model_copy(update={"scenario": run.model_copy(update=changes)})


@pytest.mark.parametrize(("limit_ms", "expected"), [(29.9, Verdict.FAIL), (30, Verdict.PASS)])
def test_the_p99_under_a_servers_load_is_what_counts_where_it_was_measured(limit_ms: float, expected: Verdict) -> None:
    gate = slo_gates(SloParams(latency_p99_ms=limit_ms), under_load(), 1)["latency_p99_ms"]
    word = "meets" if expected is Verdict.PASS else "misses"
    assert gate == verdict(
        expected,
        f"LoadGen server: p99 30 ms, 150/s at 160 arrivals/s, 4,096 queries, valid, {word} the {limit_ms:g} ms at p99 "
        "demanded",
    )


@pytest.mark.parametrize("changes", [{"valid": False}, {"percentile": 90}, {"percentile": None}, {"latency_ms": None}])
@pytest.mark.parametrize("limit_ms", [1, 1000])
def test_a_servers_run_that_is_invalid_or_tells_no_p99_decides_nothing(
    changes: dict[str, Any], limit_ms: float
) -> None:
    gate = slo_gates(SloParams(latency_p99_ms=limit_ms), under_load(**changes), 1)["latency_p99_ms"]
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert f"decides nothing about the {limit_ms:g} ms at p99 demanded; raise latency.budget_s" in gate.reasons[0]


def test_loadgens_own_run_needs_no_settled_windows_of_the_interleaved_one() -> None:
    unsettled = under_load().model_copy(update={"latency": latency(settled=False)})
    assert slo_gates(SloParams(latency_p99_ms=30), unsettled, 1)["latency_p99_ms"].verdict is Verdict.PASS
    assert timing_gate(unsettled).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("least", "expected"), [(150, Verdict.PASS), (151, Verdict.FAIL)])
def test_the_offline_rate_is_the_throughput_where_it_was_measured(least: float, expected: Verdict) -> None:
    gate = slo_gates(SloParams(throughput_per_s=least), under_load("offline"), 1)["throughput_per_s"]
    assert gate.verdict is expected
    assert gate.reasons[0].startswith("LoadGen offline: ")


@pytest.mark.parametrize("least", [1, 1000])
def test_an_invalid_offline_run_decides_nothing(least: float) -> None:
    gate = slo_gates(SloParams(throughput_per_s=least), under_load("offline", valid=False), 1)["throughput_per_s"]
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert f"INVALID by its own rules, decides nothing about the {least}/s demanded" in gate.reasons[0]


@pytest.mark.parametrize(
    ("name", "slo"),
    [
        ("single-stream", SloParams(latency_p99_ms=30, throughput_per_s=300)),
        ("server", SloParams(throughput_per_s=300)),
        ("offline", SloParams(latency_p99_ms=10)),
    ],
)
def test_what_a_scenario_does_not_measure_is_judged_by_the_interleaved_times(name: Any, slo: SloParams) -> None:
    gates = slo_gates(slo, under_load(name, valid=False), 1)
    assert {gate.verdict for gate in gates.values()} == {Verdict.PASS}


def test_a_scenario_is_told_beside_the_timing_and_decides_nothing_there() -> None:
    run = under_load("single-stream", percentile=90, target_per_s=None, valid=False)
    decision = timing_gate(run)
    assert decision.verdict is Verdict.PASS
    assert decision.reasons[1] == "LoadGen single-stream: p90 30 ms, 150/s, 4,096 queries, INVALID by its own rules"
    assert len(timing_gate(timing()).reasons) == 1


def test_p99_from_too_few_samples_is_inconclusive() -> None:
    gates = slo_gates(SloParams(latency_p99_ms=50), timing(latency(p99_ms=None, samples=400)), 1)
    assert gates["latency_p99_ms"].verdict is Verdict.INCONCLUSIVE
    assert "needs 662 samples, found 400" in gates["latency_p99_ms"].reasons[0]


def test_throughput_that_was_not_measured_is_inconclusive() -> None:
    gates = slo_gates(SloParams(throughput_per_s=1), timing(throughput_per_s={}), 1)
    assert gates["throughput_per_s"].verdict is Verdict.INCONCLUSIVE


SETTINGS = (
    Throughput(batch=1, threads=2, streams=1, examples_per_s=250.0),  # 4 ms a call
    Throughput(batch=64, threads=1, streams=4, examples_per_s=1200.0),  # 213.3 ms a call
)


@pytest.mark.parametrize(
    ("limit_ms", "least", "expected", "figures"),
    [
        (
            10,
            1000,
            Verdict.FAIL,
            "throughput 250/s at batch 1 is below the 1000/s demanded; 1200/s at batch 64 x 4 streams does not count: "
            "it takes 213.3 ms on average, over the 10 ms demanded",
        ),
        (
            10,
            250,
            Verdict.PASS,
            "throughput 250/s at batch 1 meets the 250/s demanded; 1200/s at batch 64 x 4 streams does not count: it "
            "takes 213.3 ms on average, over the 10 ms demanded",
        ),
        (
            3,
            1,
            Verdict.FAIL,
            "no throughput counts for the 1/s demanded, since no setting answers within 3 ms: the quickest, 250/s at "
            "batch 1, takes 4 ms on average",
        ),
        (214, 1000, Verdict.PASS, "throughput 1200/s at batch 64 x 4 streams meets the 1000/s demanded"),
        (None, 1000, Verdict.PASS, "throughput 1200/s at batch 64 x 4 streams meets the 1000/s demanded"),
    ],
)
def test_throughput_counts_only_where_the_same_setting_keeps_within_the_p99(
    limit_ms: float | None, least: float, expected: Verdict, figures: str
) -> None:
    measured = timing().model_copy(update={"throughput": SETTINGS})
    gates = slo_gates(SloParams(latency_p99_ms=limit_ms, throughput_per_s=least), measured, 1)
    assert gates["throughput_per_s"] == verdict(expected, figures)


@pytest.mark.parametrize(("limit_ms", "expected"), [(25, Verdict.PASS), (24.9, Verdict.FAIL), (4.9, Verdict.FAIL)])
def test_older_evidence_is_held_to_both_demands_too(limit_ms: float, expected: Verdict) -> None:
    """It tells 200/s at batch 1, which is 5 ms a call, and 320/s at batch 8, which is 25 ms."""
    gates = slo_gates(SloParams(latency_p99_ms=limit_ms, throughput_per_s=300), timing(), 1)
    assert gates["throughput_per_s"].verdict is expected


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
