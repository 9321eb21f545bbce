"""The records that steps hand on: frozen, serialisable, named by digests and never by bare paths."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from slipway.errors import RejectedError, UnsupportedError

Option: TypeAlias = bool | int | float | str


class Verdict(StrEnum):
    """What was concluded about a candidate, a gate or a release; only PASS promotes."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    SKIPPED = "SKIPPED"

    @property
    def exit_code(self) -> int:
        """Exit status of a command with this verdict."""
        return {"PASS": 0, "FAIL": 3, "SKIPPED": 3, "INCONCLUSIVE": 4, "ERROR": 5}[self.value]

    @classmethod
    def of_error(cls, error: BaseException) -> Verdict:
        """The verdict on a candidate whose step raised ``error``."""
        if isinstance(error, UnsupportedError):
            return cls.SKIPPED
        return cls.FAIL if isinstance(error, RejectedError) else cls.ERROR


class Form(StrEnum):
    """The file form that an engine builds from."""

    PROGRAM = "program"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"


class Record(BaseModel):
    """Base of every record: immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Decision(Record):
    """A verdict with its reasons, in words and figures."""

    verdict: Verdict
    reasons: tuple[str, ...]


class Artifact(Record):
    """Bytes in the object store: one file, or one directory of files (OpenVINO's .xml and .bin).

    ``digest`` is the sha256 of the file's bytes; of a directory, the sha256 of its sorted listing.
    """

    digest: str
    name: str
    size_bytes: int


class TensorSpec(Record):
    """A named input or output; ``dtype`` is numpy's name, -1 in ``shape`` is a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Signature(Record):
    """The named inputs and outputs of a model, in call order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ModelSource(Record):
    """A fetched model version; ``digest`` is the sha256 of the model file as the registry holds it."""

    uri: str
    name: str
    version: str
    format: Literal["pt2", "torchscript", "pickle"]
    digest: str
    program: Artifact
    signature: Signature


class DataSource(Record):
    """A DVC-tracked directory whose files were hashed and agree with the tracked ``md5``."""

    path: str
    md5: str
    files: int
    size_bytes: int


class Parity(Record):
    """How far outputs lie from the eager reference's, over ``n`` real examples."""

    max_abs_diff: float
    max_rel_diff: float
    cosine: float
    top1_agreement: float | None
    n: int


class Exported(Record):
    """The fp32 model in one form, compared with the eager reference on real inputs."""

    form: Form
    artifact: Artifact
    parity: Parity | None
    exporter: str


class VariantFile(Record):
    """One variant in one form, ready for the engines that build from that form."""

    variant: str
    form: Form
    artifact: Artifact
    notes: tuple[str, ...] = ()


class CandidateSpec(Record):
    """What was asked for: one variant on one engine for one target."""

    target: str
    variant: str
    engine: str

    def __str__(self) -> str:
        """``variant/engine``, as tables show it."""
        return f"{self.variant}/{self.engine}"


class Built(Record):
    """An engine file; its digest identifies the candidate."""

    spec: CandidateSpec
    artifact: Artifact
    options: dict[str, Option]
    engine_version: str
    notes: tuple[str, ...] = ()


class Predictions(Record):
    """Outputs and targets over a whole data set, kept so that candidates compare without running again."""

    artifact: Artifact
    metric: str
    value: float
    n: int


class Accuracy(Record):
    """A candidate's accuracy, paired per example with the reference.

    ``drop`` is reference minus candidate for metrics where higher is better (candidate minus reference otherwise),
    with one-sided bounds at ``confidence``. ``flips`` counts examples whose top-1 answer changed; for 0/1 metrics,
    ``discordant`` counts those that exactly one of the two got right.
    """

    metric: str
    value: float
    reference_value: float
    drop: float
    drop_lower: float
    drop_upper: float
    confidence: float
    method: str
    n: int
    flips: int | None = None
    discordant: int | None = None
    worst_class: str | None = None


class Validated(Record):
    """Accuracy and parity of one engine file on the whole test set."""

    accuracy: Accuracy
    parity: Parity
    executed_precision: dict[str, int]
    predictions: Artifact


class Latency(Record):
    """Latency of one engine file; a percentile the sample count cannot support is None."""

    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    samples: int
    batch: int
    threads: int
    settled: bool


class Interval(Record):
    """A point estimate with its two-sided confidence interval."""

    value: float
    lower: float
    upper: float


class HostLoad(Record):
    """The host's state around a measurement; steal is the share of CPU time taken by other guests."""

    load_1m_before: float
    load_1m_after: float
    steal_share: float


class Timing(Record):
    """Latency, paired speed-up over the reference and throughput per batch size, from one interleaved session."""

    latency: Latency
    reference_latency: Latency
    speedup: Interval
    throughput_per_s: dict[str, float]
    peak_rss_bytes: int
    load_seconds: float
    host_load: HostLoad


class Timed(Record):
    """Timing of one candidate; ``over_champion`` is its paired speed-up over the engine that serves now, if any."""

    timing: Timing
    over_champion: Interval | None


class Hardware(Record):
    """The hardware that was measured on; ``fingerprint`` is the sha256 of what changes an engine's behaviour."""

    fingerprint: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    memory_bytes: int
    gpu: str | None
    machine: str
    runtimes: dict[str, str]


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


class TargetOutcome(Record):
    """What a release concluded for one target."""

    target: str
    decision: Decision
    chosen: str | None
    tied: tuple[str, ...]
    pareto: tuple[str, ...]
    hardware: Hardware
    reference_value: float
    reference_latency: Latency | None
    candidates: tuple[Evidence, ...]


class Release(Record):
    """One run over one model version: all candidates and evidence, one outcome per target."""

    model: ModelSource
    data_md5: str
    calibration_md5: str | None
    code_revision: str
    metric: str
    targets: tuple[TargetOutcome, ...]


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


class Failure(Record):
    """A step that ended in a definite no (SKIPPED or FAIL) or could not be done (ERROR), with the reason."""

    step: str
    decision: Decision
