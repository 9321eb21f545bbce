"""The choice among candidates: objective, ties, what is told without a choice, and the Pareto front."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.config import Objective
from slipway.decisions.choice import choose, front_percentile, latency_at, pareto_front
from slipway.records import Evidence, Throughput, Verdict
from tests.unit.decisions.builders import bounded, evidence, interval, latency, timing, verdict


def speed(name: str, value: float, lower: float, upper: float, drop: float = 0.0, size_bytes: int = 1000) -> Evidence:
    """A passing candidate with this paired speed-up."""
    own = latency(p50_ms=10 / value)
    timed = timing(own, speedup=interval(value, lower, upper))
    return evidence(name, accuracy=bounded(drop, drop - 0.01, drop + 0.01), timed=timed, size_bytes=size_bytes)


def test_fastest_by_paired_ratio_is_chosen() -> None:
    choice = choose("latency_p50_ms", [speed("slow", 2, 1.9, 2.1), speed("fast", 5, 4.8, 5.2)])
    assert (choice.chosen, choice.tied, choice.decision.verdict) == ("fast", (), Verdict.PASS)
    assert choice.decision.reasons == (
        "fast/onnxruntime is best by latency_p50_ms of 2 that passed: "
        "5.00x the reference's speed (4.80 to 5.20), top1 drop 0.0000",
    )


def test_the_paired_ratio_decides_and_not_the_milliseconds() -> None:
    """Milliseconds from two sessions do not compare: the host may have been busier in one of them."""
    quick = evidence("quick", timed=timing(latency(p50_ms=3), speedup=interval(2, 1.9, 2.1)))
    ratio = evidence("ratio", timed=timing(latency(p50_ms=4), speedup=interval(3, 2.9, 3.1)))
    assert choose("latency_p50_ms", [quick, ratio]).chosen == "ratio"


def test_among_overlapping_intervals_the_more_accurate_wins() -> None:
    fast = speed("fast", 5.0, 4.5, 5.5, drop=0.004, size_bytes=10)
    level = speed("level", 4.4, 4.2, 4.6, drop=0.001)
    clear = speed("clear", 4.0, 3.9, 4.4, drop=-0.01)
    choice = choose("latency_p50_ms", [fast, level, clear])
    assert (choice.chosen, choice.tied) == ("level", ("fast",))
    assert any("fast/onnxruntime is tied" in reason for reason in choice.decision.reasons)


def test_accuracy_is_the_lower_drop_also_where_the_metric_itself_is_better_low() -> None:
    worse = evidence("worse", accuracy=bounded(0.2, 0.1, 0.3, metric="mae").model_copy(update={"value": 1.2}))
    better = evidence("better", accuracy=bounded(-0.1, -0.2, 0, metric="mae").model_copy(update={"value": 0.9}))
    assert choose("latency_p50_ms", [worse, better]).chosen == "better"


def test_equal_accuracy_goes_to_the_smaller_file_then_to_the_digest() -> None:
    big, small = speed("a", 2, 1, 3, size_bytes=20), speed("b", 2, 1, 3, size_bytes=10)
    twin = speed("c", 2, 1, 3, size_bytes=10)
    for order in itertools.permutations([big, small, twin]):
        choice = choose("latency_p50_ms", order)
        assert (choice.chosen, choice.tied) == ("b", ("c", "a"))


@pytest.mark.parametrize(
    ("objective", "best"), [("latency_p99_ms", "tail"), ("throughput_per_s", "many"), ("size_bytes", "small")]
)
def test_other_objectives_compare_plainly(objective: Objective, best: str) -> None:
    tail = evidence("tail", timed=timing(latency(p99_ms=6)))
    many = evidence("many", timed=timing(throughput_per_s={"1": 1, "32": 900}))
    small = evidence("small", size_bytes=999)
    choice = choose(objective, [tail, many, small])
    assert (choice.chosen, choice.tied) == (best, ())


def rated(name: str, best: Throughput | None, *others: Throughput) -> Evidence:
    """A passing candidate with these settings, ``best`` of them recorded as the one to serve with."""
    settings = others if best is None else (best, *others)
    return evidence(name, timed=timing().model_copy(update={"throughput": settings, "best_throughput": best}))


def test_throughput_is_that_of_the_setting_to_serve_with() -> None:
    slow, level, fast = (
        Throughput(batch=batch, threads=1, streams=streams, examples_per_s=rate)
        for batch, streams, rate in ((1, 1, 250.0), (4, 2, 260.0), (64, 4, 1200.0))
    )
    choice = choose("throughput_per_s", [rated("peak", slow, fast), rated("steady", level), rated("late", None, fast)])
    assert choice.chosen == "steady"
    assert choice.decision.reasons == (
        "steady/onnxruntime is best by throughput_per_s of 2 that passed: 260/s at batch 4 x 2 streams, "
        "top1 drop 0.0010",
        "late/onnxruntime passed but cannot be ranked: no setting answers within the p99 demanded of the target; "
        "the best of all is 1200/s at batch 64 x 4 streams",
    )


def tail(name: str, p99_ms: float, lower: float, upper: float, drop: float = 0.0) -> Evidence:
    """A passing candidate with this p99 and its interval."""
    own = latency(p99_ms=p99_ms).model_copy(update={"p99_interval_ms": interval(p99_ms, lower, upper)})
    return evidence(name, accuracy=bounded(drop, drop, drop), timed=timing(own))


def test_tails_whose_intervals_overlap_are_tied() -> None:
    low, level, high = tail("low", 5, 4, 8, 0.004), tail("level", 9, 8, 20, 0.001), tail("high", 20, 8.1, 90)
    choice = choose("latency_p99_ms", [high, low, level])
    assert (choice.chosen, choice.tied) == ("level", ("low",))
    assert choice.decision.reasons[0].endswith("of 3 that passed: latency_p99_ms 9 (8 to 20), top1 drop 0.0010")


def test_what_did_not_pass_is_never_chosen() -> None:
    fast = speed("fast", 9, 8, 10).model_copy(update={"decision": verdict(Verdict.INCONCLUSIVE, "n")})
    assert choose("latency_p50_ms", [fast, speed("slow", 1, 1, 1)]).chosen == "slow"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([Verdict.FAIL, Verdict.FAIL], Verdict.FAIL),
        ([Verdict.FAIL, Verdict.ERROR, Verdict.SKIPPED], Verdict.FAIL),
        ([Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR], Verdict.INCONCLUSIVE),
        ([Verdict.ERROR, Verdict.ERROR], Verdict.ERROR),
        ([Verdict.ERROR, Verdict.SKIPPED], Verdict.ERROR),
        ([Verdict.SKIPPED], Verdict.SKIPPED),
    ],
)
def test_without_a_passing_candidate_the_verdict_tells_why(verdicts: list[Verdict], expected: Verdict) -> None:
    candidates = [evidence(f"c{i}", decision=verdict(v, f"why {i}", "more")) for i, v in enumerate(verdicts)]
    choice = choose("latency_p50_ms", candidates)
    assert (choice.chosen, choice.decision.verdict) == (None, expected)
    assert choice.decision.reasons == tuple(f"c{i}/onnxruntime {v}: why {i}" for i, v in enumerate(verdicts))


def test_no_candidates_is_an_error() -> None:
    assert choose("latency_p50_ms", []).decision.verdict is Verdict.ERROR


def test_a_pass_without_the_objective_is_left_out_and_told() -> None:
    unknown = evidence("unknown", timed=timing(latency(p99_ms=None)))
    known = choose("latency_p99_ms", [unknown, evidence("known")])
    assert known.chosen == "known"
    assert "unknown/onnxruntime passed but cannot be ranked" in known.decision.reasons[-1]
    alone = choose("latency_p99_ms", [unknown])
    assert (alone.chosen, alone.decision.verdict) == (None, Verdict.INCONCLUSIVE)


def test_a_pass_without_timing_is_not_chosen() -> None:
    untimed = evidence("untimed").model_copy(update={"timing": None})
    assert choose("size_bytes", [untimed]).chosen is None


def placed(name: str, p99_ms: float | None, drop: float, p50_ms: float = 1.0) -> Evidence:
    return evidence(name, accuracy=bounded(drop, drop, drop), timed=timing(latency(p50_ms=p50_ms, p99_ms=p99_ms)))


def test_pareto_front_holds_every_measured_candidate_that_none_beats() -> None:
    failed = verdict(Verdict.FAIL, "accuracy")
    quick = placed("quick", 2, 0.2).model_copy(update={"decision": failed})
    middle, exact, beaten = placed("middle", 4, 0.005), placed("exact", 8, 0.0), placed("beaten", 5, 0.006)
    broken = evidence("broken").model_copy(update={"timing": None, "decision": verdict(Verdict.ERROR, "died")})
    choice = choose("latency_p50_ms", [exact, beaten, broken, middle, quick])
    assert choice.pareto == ("quick", "middle", "exact")


def test_the_front_is_over_the_p99_and_not_over_the_median() -> None:
    steady, jumpy = placed("steady", 4, 0.001, p50_ms=3), placed("jumpy", 9, 0.001, p50_ms=1)
    assert front_percentile([steady, jumpy]) == "p99"
    assert pareto_front([jumpy, steady]) == ("steady",)


def test_a_candidate_without_a_p99_is_neither_on_the_front_nor_in_the_way_of_others() -> None:
    unknown, known = placed("unknown", None, 0.0), placed("known", 9, 0.001)
    assert pareto_front([unknown, known]) == ("known",)


def test_where_no_candidate_has_a_p99_the_front_is_over_the_median() -> None:
    slow, quick = placed("slow", None, 0.001, p50_ms=3), placed("quick", None, 0.001, p50_ms=1)
    assert front_percentile([slow, quick]) == front_percentile([]) == "p50"
    assert pareto_front([slow, quick]) == ("quick",)
    assert (latency_at("p50", latency(5, 9)), latency_at("p99", latency(5, 9))) == (5, 9)
    assert latency_at("p99", latency(p99_ms=None)) is None


points = st.lists(st.tuples(st.integers(1, 9), st.integers(-3, 3)), min_size=1, max_size=12)


@given(points)
def test_pareto_front_agrees_with_its_definition(drawn: list[tuple[int, int]]) -> None:
    candidates = [placed(f"{i:02}", p99_ms, drop, p50_ms=10 - p99_ms) for i, (p99_ms, drop) in enumerate(drawn)]
    front = {
        f"{i:02}"
        for i, own in enumerate(drawn)
        if not any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in drawn)
    }
    assert set(choose("latency_p50_ms", candidates).pareto) == front


@given(st.lists(st.tuples(st.sampled_from(Verdict), st.integers(1, 5)), max_size=6))
def test_choice_does_not_depend_on_the_order_and_is_a_pass(drawn: list[tuple[Verdict, int]]) -> None:
    candidates = [
        speed(f"c{i}", value, value - 0.6, value + 0.6).model_copy(update={"decision": verdict(v, "why")})
        for i, (v, value) in enumerate(drawn)
    ]
    choice = choose("latency_p50_ms", candidates)
    passed = {c.digest for c in candidates if c.decision.verdict is Verdict.PASS}
    assert (choice.chosen in passed) == (choice.decision.verdict is Verdict.PASS) == bool(passed)
    assert choose("latency_p50_ms", candidates[::-1]).chosen == choice.chosen
