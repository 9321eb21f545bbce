"""Turn what was measured into evidence and verdicts; the rules themselves are pure functions in ``decisions``."""

from __future__ import annotations

from collections.abc import Sequence

from slipway.config import AccuracyParams, TargetParams
from slipway.decisions.choice import choose
from slipway.decisions.gates import accuracy_gate, combine, regression_gate, slo_gates, timing_gate
from slipway.records import (
    Built,
    CandidateSpec,
    DataSource,
    Decision,
    Evidence,
    Failure,
    Hardware,
    Latency,
    ModelSource,
    Predictions,
    Record,
    Release,
    TargetOutcome,
    Timed,
    Validated,
)


class Context(Record):
    """What every piece of evidence of a release is bound to."""

    model: ModelSource
    data: DataSource
    calibration: DataSource | None
    code_revision: str
    hardware: Hardware


def judge(
    context: Context,
    spec: CandidateSpec,
    accuracy: AccuracyParams,
    target: TargetParams,
    built: Built | Failure,
    validated: Validated | Failure,
    timed: Timed | Failure,
) -> Evidence:
    """All evidence on one candidate and the verdict of its gates; what a failed step left unknown is None."""
    done_build = built if isinstance(built, Built) else None
    done_validation = validated if isinstance(validated, Validated) else None
    done_timing = timed if isinstance(timed, Timed) else None
    failures = [outcome for outcome in (built, validated, timed) if isinstance(outcome, Failure)]
    gates = {failure.step: failure.decision for failure in failures[:1]}
    if done_build and done_validation and done_timing:
        gates = _gates(accuracy, target, done_build, done_validation, done_timing)
    return Evidence(
        digest=done_build.artifact.digest if done_build else None,
        spec=spec,
        options=(done_build.options if done_build else {}) | _session_options(done_timing),
        model_uri=context.model.uri,
        model_digest=context.model.digest,
        data_md5=context.data.md5,
        calibration_md5=context.calibration.md5 if context.calibration else None,
        code_revision=context.code_revision,
        hardware=context.hardware,
        size_bytes=done_build.artifact.size_bytes if done_build else None,
        engine_version=done_build.engine_version if done_build else None,
        accuracy=done_validation.accuracy if done_validation else None,
        parity=done_validation.parity if done_validation else None,
        executed_precision=done_validation.executed_precision if done_validation else {},
        timing=done_timing.timing if done_timing else None,
        gates=gates,
        decision=combine(gates),
        notes=done_build.notes if done_build else (),
        signature=context.model.signature,
    )


def _gates(
    accuracy: AccuracyParams, target: TargetParams, built: Built, validated: Validated, timed: Timed
) -> dict[str, Decision]:
    gates = {
        "accuracy": accuracy_gate(accuracy, validated.accuracy),
        "timing": timing_gate(timed.timing),
        **slo_gates(target.slo, timed.timing, built.artifact.size_bytes),
    }
    regression = regression_gate(target.max_regression, timed.over_champion)
    return gates | ({"regression": regression} if regression else {})


def _session_options(timed: Timed | None) -> dict[str, bool | int | float | str]:
    return {"threads": timed.timing.latency.threads} if timed else {}


def conclude(
    context: Context, name: str, target: TargetParams, reference: Predictions, candidates: Sequence[Evidence]
) -> TargetOutcome:
    """Choose among the candidates of one target."""
    choice = choose(target.objective, candidates)
    timings = [evidence.timing for evidence in candidates if evidence.timing]
    reference_latency: Latency | None = timings[0].reference_latency if timings else None
    return TargetOutcome(
        target=name,
        decision=choice.decision,
        chosen=choice.chosen,
        tied=choice.tied,
        pareto=choice.pareto,
        hardware=context.hardware,
        reference_value=reference.value,
        reference_latency=reference_latency,
        candidates=tuple(candidates),
    )


def release_of(context: Context, metric: str, outcomes: Sequence[TargetOutcome]) -> Release:
    """The whole release as one record."""
    return Release(
        model=context.model,
        data_md5=context.data.md5,
        calibration_md5=context.calibration.md5 if context.calibration else None,
        code_revision=context.code_revision,
        metric=metric,
        targets=tuple(outcomes),
    )
