from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.config import Params
from slipway.decisions.audit import LEARNT, ask_for_release, audit_gates, finding_of, judge_audit
from slipway.records import Decision, Evidence, Interval, RequestedRelease, Verdict
from tests.unit.decisions.builders import HARDWARE, evidence, interval, latency, timing, verdict

PARAMS = Params.model_validate(
    {
        "model": "models:/m/1",
        "data": {"test": "data"},
        "targets": {"x86": {"engines": ["onnxruntime"], "max_regression": 0.05}},
    }
)
RECORDED = evidence(timed=timing(speedup=interval(2.0, 1.9, 2.1)))
NIGHT = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)


def fresh(
    speedup: Interval | None = None, settled: bool = True, torch: str | None = None, **gates: Decision
) -> Evidence:
    """What was measured tonight; every gate passed, unless told."""
    timed = timing(own=latency(settled=settled), speedup=speedup or interval(2.0, 1.9, 2.1))
    found = evidence(timed=timed, gates={"accuracy": verdict(Verdict.PASS, "fine")} | gates)
    runtimes = {} if torch is None else {"torch": torch}
    return found.model_copy(update={"hardware": HARDWARE.model_copy(update={"runtimes": runtimes})})


def test_a_champion_that_keeps_everything_passes() -> None:
    found = judge_audit(PARAMS, RECORDED, fresh(), ())

    assert found.verdict is Verdict.PASS
    assert found.reasons == (
        "stale: built and measured on a host as this one is today",
        "accuracy: fine",
        "speed: speed is 2.000x (1.900 to 2.100) over the reference, recorded 2.000x (1.900 to 2.100), not clearly "
        "below 1.805x",
    )


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (interval(3.0, 2.9, 3.1), Verdict.PASS),  # faster
        (interval(1.95, 1.85, 2.05), Verdict.PASS),  # overlaps
        (interval(1.82, 1.78, 1.86), Verdict.PASS),  # below, by no more than allowed
        (interval(1.7, 1.5, 1.9), Verdict.PASS),  # may be as fast
        (interval(1.79, 1.77, 1.805), Verdict.PASS),  # just not clearly below 0.95 x 1.9
        (interval(1.79, 1.77, 1.804), Verdict.FAIL),
        (interval(1.0, 0.9, 1.1), Verdict.FAIL),
    ],
)
def test_only_what_is_clearly_slower_by_more_than_allowed_fails(now: Interval, expected: Verdict) -> None:
    assert judge_audit(PARAMS, RECORDED, fresh(speedup=now), ()).verdict is expected


def test_a_fail_tells_by_how_much() -> None:
    found = judge_audit(PARAMS, RECORDED, fresh(speedup=interval(1.5, 1.4, 1.6)), ())

    assert found.reasons == (
        "speed: speed is 1.500x (1.400 to 1.600) over the reference, recorded 2.000x (1.900 to 2.100): below 1.805x, "
        "slower by 25.0%",
    )


def test_what_a_target_allows_is_its_own() -> None:
    generous = PARAMS.targets["x86"].model_copy(update={"max_regression": 0.5})
    params = PARAMS.model_copy(update={"targets": {"x86": generous}})

    assert judge_audit(params, RECORDED, fresh(speedup=interval(1.5, 1.4, 1.6)), ()).verdict is Verdict.PASS


@pytest.mark.parametrize("unsettled", ["candidate", "reference"])
def test_slowness_that_never_settled_is_no_fail(unsettled: str) -> None:
    slow = fresh(speedup=interval(1.0, 0.9, 1.1), settled=unsettled != "candidate")
    if unsettled == "reference":
        assert slow.timing is not None
        shaky = slow.timing.model_copy(update={"reference_latency": latency(settled=False)})
        slow = slow.model_copy(update={"timing": shaky})

    found = judge_audit(PARAMS, RECORDED, slow, ())

    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons[0].endswith("but latency never settled; audit it on a quieter host")


def test_a_reference_in_another_pytorch_is_no_measure_of_slowness() -> None:
    """The ratio fell, and it may be the reference that became faster; a ratio that did not fall still passes."""
    older = RECORDED.model_copy(update={"hardware": HARDWARE.model_copy(update={"runtimes": {"torch": "2.13.0"}})})

    slower = judge_audit(PARAMS, older, fresh(speedup=interval(1.0, 0.9, 1.1), torch="2.14.0"), ())
    assert slower.verdict is Verdict.INCONCLUSIVE
    assert "the reference ran in PyTorch 2.13.0 then and in 2.14.0 now" in slower.reasons[0]
    assert judge_audit(PARAMS, older, fresh(torch="2.14.0"), ()).verdict is Verdict.PASS


@pytest.mark.parametrize("gate", ["accuracy", "precision", "latency_p99_ms", "timing"])
@pytest.mark.parametrize("worst", [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_every_gate_of_a_release_counts_under_its_name(gate: str, worst: Verdict) -> None:
    found = judge_audit(PARAMS, RECORDED, fresh(**{gate: verdict(worst, "0.02 too much")}), ())

    assert found == Decision(verdict=worst, reasons=(f"{gate}: 0.02 too much",))


def test_an_engine_that_executes_nothing_of_its_variant_any_more_fails() -> None:
    """A release would leave it out as fp32 under another name; this one was chosen for it and serves."""
    found = judge_audit(PARAMS, RECORDED, fresh(precision=verdict(Verdict.SKIPPED, "none was executed")), ())

    assert found == Decision(verdict=Verdict.FAIL, reasons=("precision: none was executed",))


@pytest.mark.parametrize("measured", [False, True])
def test_a_stale_engine_fails_with_each_reason_whether_measured_or_not(measured: bool) -> None:
    found = judge_audit(PARAMS, RECORDED, fresh() if measured else None, ("onnxruntime 1.30, here 1.31", "L3 less"))

    assert found == Decision(verdict=Verdict.FAIL, reasons=("stale: onnxruntime 1.30, here 1.31", "stale: L3 less"))


def test_what_is_not_stale_and_was_not_measured_is_an_error() -> None:
    assert judge_audit(PARAMS, RECORDED, None, ()).verdict is Verdict.ERROR


def test_without_a_timing_speed_is_inconclusive() -> None:
    """Where accuracy failed so that nothing was timed, that is the verdict."""
    untimed = fresh().model_copy(update={"timing": None})

    assert judge_audit(PARAMS, RECORDED, untimed, ()).verdict is Verdict.INCONCLUSIVE
    broken = untimed.model_copy(update={"gates": {"validate": verdict(Verdict.FAIL, "NaN")}})
    assert judge_audit(PARAMS, RECORDED, broken, ()).verdict is Verdict.FAIL


FAILED = audit_gates(PARAMS, RECORDED, fresh(accuracy=verdict(Verdict.FAIL, "drop >= 0.03")), ())
FINDING: dict[str, Any] = {"name": "m.x86", "version": "3", "data_md5": "d1", "gates": FAILED, "stale": ()}


def test_the_same_complaint_in_other_figures_is_the_same_finding() -> None:
    tomorrow = audit_gates(
        PARAMS, RECORDED, fresh(speedup=interval(2.2, 2.0, 2.4), accuracy=verdict(Verdict.FAIL, "drop >= 0.04")), ()
    )

    assert finding_of(**FINDING) == finding_of(**FINDING | {"gates": tomorrow})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "m.arm"},
        {"version": "4"},
        {"data_md5": "d2"},
        {"gates": FAILED | {"speed": verdict(Verdict.FAIL, "slower")}},
        {"stale": ("driver 1, here 2",)},
    ],
)
def test_another_complaint_is_another_finding(change: dict[str, Any]) -> None:
    assert finding_of(**FINDING) != finding_of(**FINDING | change)


def requested(last: datetime, ended: Verdict | None = None) -> RequestedRelease:
    first = datetime(2026, 11, 18, 2, 0, tzinfo=UTC)
    return RequestedRelease(first_asked=first, last_asked=last, ended=ended, run_id="r7" if ended else None)


def test_a_release_is_asked_for_once_and_each_later_day_until_one_has_ended() -> None:
    yesterday, today = datetime(2026, 11, 19, 23, 59, tzinfo=UTC), datetime(2026, 11, 20, 0, 1, tzinfo=UTC)

    assert ask_for_release(None, None, NIGHT).verdict is Verdict.PASS
    assert ask_for_release(requested(today), None, NIGHT) == Decision(
        verdict=Verdict.SKIPPED, reasons=("a release was asked for on 2026-11-18, and none has ended yet",)
    )
    again = ask_for_release(requested(yesterday), None, NIGHT)
    assert again.verdict is Verdict.PASS
    assert again.reasons == (
        "a release was asked for on 2026-11-18, and none has ended since, so it was asked for again",
    )


@pytest.mark.parametrize("earlier", [None, requested(datetime(2026, 11, 18, 2, 0, tzinfo=UTC))])
def test_nothing_is_asked_for_beside_a_release_that_is_under_way(earlier: RequestedRelease | None) -> None:
    """Whoever asked for it: another night will tell whether it mended this."""
    assert ask_for_release(earlier, "busy-bee", NIGHT) == Decision(
        verdict=Verdict.SKIPPED,
        reasons=("a release is on its way, run busy-bee, so none is asked for tonight",),
    )


@pytest.mark.parametrize("ended", sorted(LEARNT))
@pytest.mark.parametrize("running", [None, "busy-bee"])
def test_what_a_release_ended_without_mending_is_left_to_a_person(ended: Verdict, running: str | None) -> None:
    found = ask_for_release(requested(datetime(2026, 11, 18, 2, 0, tzinfo=UTC), ended), running, NIGHT)

    assert found.verdict is Verdict.SKIPPED
    assert f"one ended {ended} (MLflow run r7) without another champion" in found.reasons[0]
