from __future__ import annotations

import pytest

from slipway.config import SloParams, TargetParams
from slipway.records import (
    Built,
    Decision,
    Evidence,
    Failure,
    Interval,
    Predictions,
    Rebuild,
    Throughput,
    Timed,
    Validated,
    Verdict,
)
from slipway.steps.judge import conclude, judge, release_of
from tests.fakes.evidence import LATENCY
from tests.fakes.evidence import evidence as passing
from tests.unit.reports.test_restored import WAY
from tests.unit.steps.records import (
    BUILT,
    MEASURED,
    PARAMS,
    PARITY,
    SPEC,
    TARGET,
    TIMED,
    VALIDATED,
    artifact,
    context,
    failed,
    profile,
    timing,
    verdicts,
)

MEASURED_GATES = ("parity", "accuracy", "precision", "timing")
PREDICTIONS = Predictions(artifact=artifact("9"), metric="top1", value=0.98, n=1000)


def judged(
    built: Built | Failure = BUILT,
    validated: Validated | Failure = VALIDATED,
    timed: Timed | Failure = TIMED,
    target: TargetParams = TARGET,
) -> Evidence:
    params = PARAMS.model_copy(update={"targets": {"x86": target}})
    return judge(context("c" * 32), SPEC, params, built, validated, timed, profile("fp32", "fp32"))


def test_evidence_holds_everything_that_was_measured_and_all_that_it_is_bound_to() -> None:
    evidence, bound = judged(), context("c" * 32)

    assert evidence == Evidence(
        digest="e" * 64,
        spec=SPEC,
        options={"level": "all", "threads": 2},
        model_uri="models:/digits/1",
        model_digest="a" * 64,
        data_md5=bound.data.md5,
        calibration_md5="c" * 32,
        code_revision="c0ffee",
        hardware=bound.hardware,
        size_bytes=1_500_000,
        engine_version="1.31.1",
        accuracy=MEASURED,
        parity=PARITY,
        executed_precision={"int8": 2},
        timing=timing(),
        gates=evidence.gates,
        decision=evidence.decision,
        notes=("2 of 2 Conv in int8",),
        signature=bound.model.signature,
        profile=profile("int8", "int8"),
        reference_profile=profile("fp32", "fp32"),
        attachments=(artifact("8", "scores.npz"), artifact("7", "trace.json")),
    )
    assert verdicts(evidence) == dict.fromkeys(MEASURED_GATES, Verdict.PASS)
    assert evidence.decision.verdict is Verdict.PASS


def test_every_demand_of_the_target_is_a_gate() -> None:
    slo = SloParams(latency_p99_ms=2, throughput_per_s=900, size_mb=2)
    evidence = judged(target=TARGET.model_copy(update={"slo": slo}))

    assert verdicts(evidence) == dict.fromkeys(MEASURED_GATES, Verdict.PASS) | {
        "latency_p99_ms": Verdict.FAIL,
        "throughput_per_s": Verdict.PASS,
        "size_mb": Verdict.PASS,
    }
    assert evidence.decision.verdict is Verdict.FAIL
    assert evidence.decision.reasons == ("latency_p99_ms: p99 latency 3 ms exceeds the 2 ms demanded",)


@pytest.mark.parametrize(("over", "verdict"), [(1.0, Verdict.PASS), (0.8, Verdict.FAIL)])
def test_the_champion_is_a_gate_where_there_is_one(over: float, verdict: Verdict) -> None:
    timed = TIMED.model_copy(update={"over_champion": Interval(value=over, lower=over - 0.01, upper=over + 0.01)})

    assert verdicts(judged(timed=timed))["regression"] is verdict


def test_a_drop_beyond_the_limit_fails_and_one_across_it_is_inconclusive() -> None:
    def with_drop(lower: float, upper: float) -> Validated:
        return VALIDATED.model_copy(
            update={"accuracy": MEASURED.model_copy(update={"drop_lower": lower, "drop_upper": upper})}
        )

    assert judged(validated=with_drop(0.02, 0.05)).decision.verdict is Verdict.FAIL
    assert judged(validated=with_drop(0.001, 0.05)).decision.verdict is Verdict.INCONCLUSIVE


def test_int8_that_executes_in_fp32_fails_however_fast_it_is() -> None:
    fell_back = TIMED.model_copy(update={"profile": profile("int8", "fp32", "fp32")})

    assert verdicts(judged(timed=fell_back)) == dict.fromkeys(MEASURED_GATES, Verdict.PASS) | {
        "precision": Verdict.FAIL
    }


def test_a_candidate_that_was_given_up_fails_by_its_accuracy_and_not_for_want_of_a_timing() -> None:
    bad = MEASURED.model_copy(update={"drop": 0.5, "drop_lower": 0.3, "drop_upper": 0.7, "n": 48, "available": 1000})
    evidence = judged(
        validated=VALIDATED.model_copy(update={"accuracy": bad}),
        timed=failed("benchmark", Verdict.SKIPPED, "not timed"),
    )

    assert evidence.decision.verdict is Verdict.FAIL
    assert list(evidence.gates) == ["parity", "accuracy"]


def test_a_latency_that_never_settled_is_inconclusive() -> None:
    timed = TIMED.model_copy(update={"timing": timing(settled=False)})

    assert judged(timed=timed).decision.verdict is Verdict.INCONCLUSIVE


def test_a_failure_before_the_engine_file_leaves_nothing_but_the_step_and_its_reason() -> None:
    early = failed("quantize", Verdict.SKIPPED, "no Linear layer")
    evidence = judged(early, early, failed("benchmark", Verdict.SKIPPED, "not timed"))

    assert (evidence.digest, evidence.size_bytes, evidence.accuracy, evidence.timing) == (None, None, None, None)
    assert (evidence.options, evidence.notes, evidence.executed_precision) == ({}, (), {})
    assert evidence.decision == Decision(verdict=Verdict.SKIPPED, reasons=("quantize: no Linear layer",))


def test_a_failed_validation_keeps_the_file_and_is_the_one_reason() -> None:
    evidence = judged(validated=failed("validate", Verdict.FAIL, "holds NaN"), timed=failed("benchmark"))

    assert (evidence.digest, evidence.accuracy, evidence.timing) == ("e" * 64, None, None)
    assert evidence.gates == {"validate": Decision(verdict=Verdict.FAIL, reasons=("holds NaN",))}
    assert evidence.decision.reasons == ("validate: holds NaN",)


def test_a_timed_session_that_answers_differently_keeps_the_accuracy_and_fails() -> None:
    evidence = judged(timed=failed("benchmark", Verdict.FAIL, "the timed session answers differently"))

    assert (evidence.accuracy, evidence.timing) == (MEASURED, None)
    assert evidence.options == {"level": "all"}, "no thread count was found best"
    assert evidence.decision.verdict is Verdict.FAIL
    assert evidence.decision.reasons == ("benchmark: the timed session answers differently",)


def test_an_error_in_a_step_is_an_error_of_the_candidate() -> None:
    assert judged(timed=failed("benchmark", Verdict.ERROR)).decision.verdict is Verdict.ERROR


def test_the_conclusion_takes_the_reference_from_the_same_session() -> None:
    fast, failing = passing("1" * 64), judged(failed("build"), failed("build"), failed("benchmark"))
    outcome = conclude(context(), "x86", TARGET, PREDICTIONS, [failing, fast])

    assert (outcome.target, outcome.chosen, outcome.reference_value) == ("x86", "1" * 64, 0.98)
    assert outcome.reference_latency == LATENCY
    assert outcome.candidates == (failing, fast)
    assert outcome.decision.verdict is Verdict.PASS


def test_without_any_timing_there_is_no_choice_and_no_latency_of_the_reference() -> None:
    outcome = conclude(
        context(), "x86", TARGET, PREDICTIONS, [judged(failed("build"), failed("build"), failed("benchmark"))]
    )

    assert (outcome.chosen, outcome.reference_latency, outcome.pareto) == (None, None, ())
    assert outcome.decision.verdict is Verdict.FAIL


def test_the_objective_of_the_target_decides() -> None:
    fast = passing("1" * 64, timing=timing(4.0), size_bytes=10)
    small = passing("2" * 64, timing=timing(2.0), size_bytes=5)
    by_size = TARGET.model_copy(update={"objective": "size_bytes"})

    assert conclude(context(), "x86", TARGET, PREDICTIONS, [fast, small]).chosen == "1" * 64
    assert conclude(context(), "x86", by_size, PREDICTIONS, [fast, small]).chosen == "2" * 64


def test_the_release_is_bound_to_model_data_and_code() -> None:
    bound = context("c" * 32)
    outcome = conclude(bound, "x86", TARGET, PREDICTIONS, [passing("1" * 64)])
    release = release_of(bound, "top1", [outcome])

    assert release.targets == (outcome,)
    assert (release.model, release.data_md5, release.calibration_md5, release.code_revision, release.metric) == (
        bound.model,
        bound.data.md5,
        "c" * 32,
        "c0ffee",
        "top1",
    )


def test_what_int8_qat_learnt_from_is_told_and_how_int8_mixed_was_made() -> None:
    bound = context("c" * 32).model_copy(update={"training": context().data.model_copy(update={"md5": "b" * 32})})
    built = BUILT.model_copy(update={"restored": WAY})
    evidence = judge(bound, SPEC, PARAMS, built, VALIDATED, TIMED)

    assert (evidence.training_md5, evidence.restored) == ("b" * 32, WAY)
    assert release_of(bound, "top1", []).training_md5 == "b" * 32
    assert (judged().training_md5, release_of(context(), "top1", []).training_md5) == (None, None)


def test_what_serving_needs_is_kept_beside_the_evidence_of_every_engine_file() -> None:
    example, inputs = artifact("6", "example.npz"), artifact("5", "inputs.json")
    bound = context().model_copy(update={"inputs": inputs})
    validated = VALIDATED.model_copy(update={"example": example})

    def names(built: Built | Failure, done: Validated | Failure) -> list[str]:
        found = judge(bound, SPEC, PARAMS, built, done, failed("benchmark"))
        return [one.name for one in found.attachments]

    assert names(BUILT, validated) == ["scores.npz", "example.npz", "inputs.json"]
    assert names(BUILT, failed("validate")) == ["inputs.json"]
    assert names(failed("build"), failed("build")) == []


def test_why_there_is_no_example_is_told() -> None:
    reason = "no example is kept: one takes 5.0 MB, more than 4"
    evidence = judged(validated=VALIDATED.model_copy(update={"notes": (reason,)}))

    assert evidence.notes == (*BUILT.notes, reason)


def test_what_further_builds_showed_is_kept_and_told() -> None:
    """With the latency, where it was measured; the notes of the build come first."""
    other = Rebuild(digest="d" * 64, size_bytes=1, accuracy=0.5)
    timed = other.model_copy(update={"latency_ratio": Interval(value=1.25, lower=1.2, upper=1.3)})
    validated = VALIDATED.model_copy(update={"rebuilds": (other,)})

    untimed = judged(validated=validated, timed=failed("benchmark"))
    whole = judged(validated=validated, timed=TIMED.model_copy(update={"rebuilds": (timed,)}))

    assert (untimed.rebuilds, whole.rebuilds) == ((other,), (timed,))
    assert untimed.notes == (*BUILT.notes, "other builds: top1 0.5000 (kept: 0.9790)")
    assert whole.notes == (*BUILT.notes, f"{untimed.notes[-1][:-1]}), latency 1.25 of the kept one's")


def test_the_setting_to_serve_with_is_the_best_within_the_demand() -> None:
    slow, quick = (Throughput(batch=b, threads=1, streams=1, examples_per_s=rate) for b, rate in ((8, 200), (1, 100)))
    timed = TIMED.model_copy(update={"timing": timing().model_copy(update={"throughput": (quick, slow)})})

    def best(target: TargetParams) -> Throughput | None:
        found = judged(timed=timed, target=target).timing
        return found and found.best_throughput

    assert best(TARGET) == slow
    assert best(TARGET.model_copy(update={"slo": SloParams(latency_p99_ms=20)})) == quick
