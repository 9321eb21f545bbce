"""``params.yaml``: one release described; frozen, closed, and helpful about a wrong key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from slipway.errors import BadInputError, nearest

VARIANTS = ("fp32", "bf16", "fp16", "int8-dynamic", "int8-static", "int8-mixed", "int8-qat")
P99_SAMPLES = 662  # MLPerf LoadGen's early-stopping minimum for a 99th percentile
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of every section: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataParams(Section):
    """DVC-tracked directories of npz shards: the inputs by name, plus ``target``."""

    test: Path
    calibration: Path | None = None
    training: Path | None = None


class AccuracyParams(Section):
    """The accuracy that may not be lost: the drop's bound at ``confidence`` must stay within ``max_drop``.

    ``min_ratio`` also asks for that share of the reference's accuracy, as MLPerf does (0.99 or 0.999).
    """

    metric: str = "top1"
    max_drop: Annotated[float, Field(ge=0)] = 0.01
    min_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95

    def measured(self) -> AccuracyParams:
        """What a measurement depends on, all that only judges it at its default: judging anew measures nothing anew."""
        return AccuracyParams(metric=self.metric, confidence=self.confidence)


class CalibrationParams(Section):
    """How the ranges of int8 activations follow from calibration examples; ``percentile`` is of ``ranges: percentile``.

    A percentile of 99.99 leaves out 0.005% of an activation's values at either end.
    """

    ranges: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99


class QatParams(Section):
    """How int8-qat is fine-tuned: Adam, from ``learning_rate`` down to 0 along a cosine."""

    epochs: Positive = 3
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    batch: Positive = 32


class SloParams(Section):
    """Service-level objective of a target; None means no demand."""

    latency_p99_ms: Annotated[float, Field(gt=0)] | None = None
    throughput_per_s: Annotated[float, Field(gt=0)] | None = None
    size_mb: Annotated[float, Field(gt=0)] | None = None


class PrecisionParams(Section):
    """How much of a candidate must execute in the precision that was asked for, by count of multiplying operations."""

    min_executed_share: Share | None = 0.8


class LatencyParams(Section):
    """How long and under which load a candidate is timed.

    ``scenario`` adds a run of MLPerf LoadGen; ``server`` needs the arrivals per second to hold out against.
    """

    scenario: Literal["interleaved", "single-stream", "server", "offline"] = "interleaved"
    server_per_s: Annotated[float, Field(gt=0)] | None = None
    samples: Annotated[int, Field(ge=64)] = P99_SAMPLES
    budget_s: Annotated[float, Field(gt=0)] = 300

    @model_validator(mode="after")
    def _rate_of_a_server(self) -> Self:
        if self.scenario == "server" and self.server_per_s is None:
            raise ValueError("scenario server needs server_per_s, the arrivals per second")
        return self


Objective = Literal["latency_p50_ms", "latency_p99_ms", "throughput_per_s", "size_bytes"]


class TargetParams(Section):
    """One named hardware: its engines, what it is measured under, and its objective.

    ``settings`` holds what is set for single engines, by their names. An engine file is built ``builds`` times, to tell
    how far builds differ. A target with a ``work_pool`` is built and measured by a Prefect worker of that pool.
    """

    engines: Annotated[tuple[str, ...], Field(min_length=1)]
    threads: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1,)
    batch: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1,)
    streams: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1,)
    objective: Objective = "latency_p50_ms"
    slo: SloParams = SloParams()
    max_regression: Annotated[float, Field(ge=0)] = 0.05
    settings: dict[str, dict[str, Any]] = {}
    builds: Positive = 1
    work_pool: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _settings_of_its_engines(self) -> Self:
        for name in self.settings:
            if name not in self.engines:
                raise ValueError(
                    f"settings for {name!r}{nearest(name, self.engines)}; engines: {', '.join(self.engines)}"
                )
        return self

    def measured(self) -> TargetParams:
        """What a measurement depends on, all that only judges it at its default: judging anew measures nothing anew."""
        return TargetParams(engines=self.engines, threads=self.threads, batch=self.batch, streams=self.streams)


class CanaryParams(Section):
    """The rollout's steps in percent, error rate, margins and times.

    A challenger may be so much worse than the champion: ``latency_margin`` as a share of its p95, ``accuracy_margin``
    and ``error_margin`` as shares of all requests. A step takes at least ``step_requests`` answers of the challenger.
    The rollout is given up as inconclusive after ``max_requests`` of the challenger or ``max_minutes``. A label that
    has not come after ``label_minutes`` is missing. For ``bake_minutes`` after the promotion it can still be rolled
    back by what is seen. If the controller is silent for ``dead_man_seconds``, all traffic goes back to the champion.
    """

    steps: Annotated[tuple[Annotated[float, Field(gt=0, lt=100)], ...], Field(min_length=1)] = (1, 5, 25, 50)
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    latency_margin: Share = 0.10
    accuracy_margin: Share = 0.01
    error_margin: Share = 0.005
    max_requests: Positive = 20_000
    shadow: bool = True
    step_requests: Positive = 200
    max_minutes: Annotated[float, Field(gt=0)] = 1440
    label_minutes: Annotated[float, Field(gt=0)] = 60
    bake_minutes: Annotated[float, Field(ge=0)] = 30
    dead_man_seconds: Annotated[float, Field(gt=0)] = 30


class ApprovalParams(Section):
    """Whether people approve before the champion alias moves: how many, and how long a version may wait for them.

    ``expires_hours`` None is for ever.
    """

    required: bool = False
    persons: Positive = 1
    expires_hours: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _only_where_required(self) -> Self:
        if not self.required and (self.persons, self.expires_hours) != (1, None):
            raise ValueError("persons and expires_hours say nothing without required: true")
        return self


class Params(Section):
    """One release, as ``params.yaml`` describes it."""

    model: str
    data: DataParams
    accuracy: AccuracyParams = AccuracyParams()
    precision: PrecisionParams = PrecisionParams()
    latency: LatencyParams = LatencyParams()
    calibration: CalibrationParams = CalibrationParams()
    qat: QatParams = QatParams()
    variants: Annotated[tuple[str, ...], Field(min_length=1)] = ("fp32",)
    targets: Annotated[dict[str, TargetParams], Field(min_length=1)]
    canary: CanaryParams = CanaryParams()
    approval: ApprovalParams = ApprovalParams()
    trust_pickle: bool = False

    @field_validator("variants")
    @classmethod
    def _known_variants(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in VARIANTS:
                raise ValueError(f"unknown variant {name!r}{nearest(name, VARIANTS)}; known: {', '.join(VARIANTS)}")
        return names

    @field_validator("targets")
    @classmethod
    def _plain_target_names(cls, targets: dict[str, TargetParams]) -> dict[str, TargetParams]:
        for name in targets:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"target name {name!r} may hold only letters, digits, '-' and '_'")
        return targets


def load_params(path: Path) -> Params:
    """Read and check ``path``.

    Raises:
        BadInputError: the file is missing, is not YAML, or has a wrong key or value; the nearest right key is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot read parameters {path}: {error}; give --params FILE") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise BadInputError(f"{path} holds {type(raw).__name__}, not a mapping; see params.yaml in the README")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise BadInputError(f"{path}: {'; '.join(_explain(e) for e in error.errors())}") from error


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    where = ".".join(location)
    if error["type"] == "extra_forbidden":
        section = _section_at(location[:-1])
        known = list(section.model_fields) if section else []
        return f"unknown key {where!r}{nearest(location[-1], known)}; known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"key {where!r} is missing"
    if error["type"] == "value_error":  # one of this module's own, which names what is wrong
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    return f"{where}: {error['msg']} (found {error['input']!r})"


def _section_at(location: list[str]) -> type[Section] | None:
    section: type[Section] = Params
    parts = iter(location)
    for part in parts:
        if section is Params and part == "targets":
            next(parts, None)  # the target's own name
            section = TargetParams
        else:
            annotation = section.model_fields[part].annotation
            if not (isinstance(annotation, type) and issubclass(annotation, Section)):
                return None
            section = annotation
    return section
