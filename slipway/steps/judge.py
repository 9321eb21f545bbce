"""Turn what was measured into evidence and verdicts; the rules themselves are pure functions in ``decisions``."""

from __future__ import annotations

from collections.abc import Sequence

from slipway.config import Params, SloParams, TargetParams
from slipway.decisions.choice import choose, hold_against
from slipway.decisions.gates import accuracy_gate, combine, regression_gate, slo_gates, timing_gate
from slipway.decisions.parity import parity_gate
from slipway.decisions.precision import count_precisions, precision_gate
from slipway.decisions.rebuilds import rebuilds_told
from slipway.decisions.throughput import best_throughput
from slipway.records import (
    Artifact,
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
    Profile,
    Rebuild,
    Record,
    Release,
    TargetOutcome,
    Timed,
    Timing,
    Validated,
    Verdict,
)


class Context(Record):
    """What every piece of evidence of a release is bound to; ``inputs`` summarizes the model's inputs in its data."""

    model: ModelSource
    data: DataSource
    calibration: DataSource | None
    code_revision: str
    hardware: Hardware
    training: DataSource | None = None
    inputs: Artifact | None = None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The objects that are named here."""
        return (self.model.program, *([self.inputs] if self.inputs else []))


def judge(
    context: Context,
    spec: CandidateSpec,
    params: Params,
    built: Built | Failure,
    validated: Validated | Failure,
    timed: Timed | Failure,
    reference_profile: Profile | None = None,
) -> Evidence:
    """All evidence on one candidate and the verdict of its gates; what a failed step left unknown is None."""
    done_build = built if isinstance(built, Built) else None
    done_validation = validated if isinstance(validated, Validated) else None
    done_timing = timed if isinstance(timed, Timed) else None
    gates = _gates(params, spec, done_build, done_validation, done_timing)
    failures = [outcome for outcome in (built, validated, timed) if isinstance(outcome, Failure)]
    if failures and Verdict.FAIL not in {gate.verdict for gate in gates.values()}:
        gates[failures[0].step] = failures[0].decision
    return Evidence(
        digest=done_build.artifact.digest if done_build else None,
        spec=spec,
        options=(done_build.options if done_build else {}) | _session_options(done_timing),
        model_uri=context.model.uri,
        model_digest=context.model.digest,
        data_md5=context.data.md5,
        calibration_md5=context.calibration.md5 if context.calibration else None,
        training_md5=context.training.md5 if context.training else None,
        code_revision=context.code_revision,
        hardware=context.hardware,
        size_bytes=done_build.artifact.size_bytes if done_build else None,
        engine_version=done_build.engine_version if done_build else None,
        accuracy=done_validation.accuracy if done_validation else None,
        parity=done_validation.parity if done_validation else None,
        executed_precision=_executed_precision(done_validation, done_timing),
        timing=_to_serve(done_timing.timing, params.targets[spec.target].slo) if done_timing else None,
        gates=gates,
        decision=combine(gates),
        notes=_notes(done_build, done_validation, done_timing),
        rebuilds=_rebuilds(done_validation, done_timing),
        restored=done_build.restored if done_build else (),
        signature=context.model.signature,
        profile=done_timing.profile if done_timing else None,
        reference_profile=reference_profile if done_timing else None,
        attachments=_attachments(context, done_build, done_validation, done_timing),
    )


def _gates(
    params: Params, spec: CandidateSpec, built: Built | None, validated: Validated | None, timed: Timed | None
) -> dict[str, Decision]:
    """The gates of all that was measured, by name."""
    target, gates = params.targets[spec.target], dict[str, Decision | None]()
    if validated:
        gates["parity"] = parity_gate(spec.variant, validated.parity)
        gates["accuracy"] = accuracy_gate(params.accuracy, validated.accuracy)
    if built and timed:
        gates["precision"] = precision_gate(params.precision, spec.variant, timed.profile)
        gates["timing"] = timing_gate(timed.timing)
        gates |= slo_gates(target.slo, timed.timing, built.artifact.size_bytes)
        gates["regression"] = regression_gate(target.max_regression, timed.over_champion, timed.no_champion)
    return {name: gate for name, gate in gates.items() if gate is not None}


def _executed_precision(validated: Validated | None, timed: Timed | None) -> dict[str, int]:
    """As the profile tells it, since more runtimes have one; else as the session told it."""
    if timed and timed.profile:
        return count_precisions(timed.profile.layers)
    return validated.executed_precision if validated else {}


def _to_serve(timing: Timing, slo: SloParams) -> Timing:
    """``timing`` with the setting to serve with: which one it is depends on what the target demands."""
    return timing.model_copy(update={"best_throughput": best_throughput(timing.throughput, slo.latency_p99_ms)})


def _rebuilds(validated: Validated | None, timed: Timed | None) -> tuple[Rebuild, ...]:
    measured = timed or validated  # whoever was timed was validated before
    return measured.rebuilds if measured else ()


def _notes(built: Built | None, validated: Validated | None, timed: Timed | None) -> tuple[str, ...]:
    own = (note for done in (built, validated) if done for note in done.notes)
    return (*own, *_rebuilds_told(validated, timed))


def _rebuilds_told(validated: Validated | None, timed: Timed | None) -> tuple[str, ...]:
    return rebuilds_told(validated.accuracy if validated else None, _rebuilds(validated, timed))


def _session_options(timed: Timed | None) -> dict[str, bool | int | float | str]:
    return {"threads": timed.timing.latency.threads} if timed else {}


def _attachments(
    context: Context, built: Built | None, validated: Validated | None, timed: Timed | None
) -> tuple[Artifact, ...]:
    """What is kept beside the evidence: the scores example by example, and the trace of the runtime's profiler.

    For whoever serves the engine: a few examples with its answers, and what the model's inputs look like.
    """
    measured = (validated.scores if validated else None, timed.trace if timed else None)
    to_serve = (validated.example if validated else None, context.inputs if built else None)
    return tuple(artifact for artifact in (*measured, *to_serve) if artifact is not None)


def conclude(
    context: Context,
    name: str,
    target: TargetParams,
    reference: Predictions,
    candidates: Sequence[Evidence],
    reference_trace: Artifact | None = None,
    champion: str | None = None,
) -> TargetOutcome:
    """Choose among the candidates of one target; ``champion`` is the digest of the engine that serves now."""
    choice = hold_against(champion, choose(target.objective, candidates), candidates, target.max_regression)
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
        reference_trace=reference_trace,
    )


def release_of(context: Context, metric: str, outcomes: Sequence[TargetOutcome]) -> Release:
    """The whole release as one record."""
    return Release(
        model=context.model,
        data_md5=context.data.md5,
        calibration_md5=context.calibration.md5 if context.calibration else None,
        training_md5=context.training.md5 if context.training else None,
        code_revision=context.code_revision,
        metric=metric,
        targets=tuple(outcomes),
    )
