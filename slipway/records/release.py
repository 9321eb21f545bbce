"""Evidence on candidates, and what a release concluded from it."""

from __future__ import annotations

from slipway.records.base import Artifact, Decision, Option, Record, Verdict
from slipway.records.measured import Accuracy, Hardware, Latency, Profile, Rebuild, Timing
from slipway.records.source import CandidateSpec, ModelSource, Parity, Restored, Signature


class Evidence(Record):
    """Everything known about one candidate, bound to its digest; absent where a step did not get that far."""

    digest: str | None
    spec: CandidateSpec
    options: dict[str, Option]
    model_uri: str
    model_digest: str
    data_md5: str
    calibration_md5: str | None
    code_revision: str
    hardware: Hardware
    size_bytes: int | None
    engine_version: str | None
    accuracy: Accuracy | None
    parity: Parity | None
    executed_precision: dict[str, int]
    timing: Timing | None
    gates: dict[str, Decision]
    decision: Decision
    notes: tuple[str, ...] = ()
    signature: Signature | None = None
    profile: Profile | None = None
    reference_profile: Profile | None = None
    attachments: tuple[Artifact, ...] = ()
    rebuilds: tuple[Rebuild, ...] = ()
    training_md5: str | None = None
    restored: tuple[Restored, ...] = ()


class TargetOutcome(Record):
    """What a release concluded for one target."""

    target: str
    decision: Decision
    chosen: str | None
    tied: tuple[str, ...]
    pareto: tuple[str, ...]
    hardware: Hardware
    reference_value: float | None
    reference_latency: Latency | None
    candidates: tuple[Evidence, ...]
    reference_trace: Artifact | None = None


class Release(Record):
    """One run over one model version: all candidates and evidence, one outcome per target."""

    model: ModelSource
    data_md5: str
    calibration_md5: str | None
    code_revision: str
    metric: str
    targets: tuple[TargetOutcome, ...]
    training_md5: str | None = None


class Recorded(Record):
    """Where a release is recorded: its MLflow run, and the version that the chosen engine of each target became."""

    run_id: str
    versions: dict[str, str]


class ReleaseResult(Record):
    """How a release ended: its evidence, where it is recorded, and what became of each target's chosen engine."""

    release: Release
    recorded: Recorded
    promotions: dict[str, Decision]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict over the targets."""
        verdicts = {d.verdict for d in (*(t.decision for t in self.release.targets), *self.promotions.values())}
        order = (Verdict.ERROR, Verdict.FAIL, Verdict.SKIPPED, Verdict.INCONCLUSIVE)
        return next((verdict for verdict in order if verdict in verdicts), Verdict.PASS)
