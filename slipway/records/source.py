"""What a release starts from and makes of it: model, data, exports, variants, candidates."""

from __future__ import annotations

from typing import Literal

from slipway.records.base import Artifact, Form, Option, Record


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


class Restored(Record):
    """One point of int8-mixed's way back: how many layers are in fp32 again, the last of them, and what came of it.

    ``fp32_share`` is of the model's multiply-accumulates. ``error`` is the worst output's root-mean-square difference
    from fp32's, relative to fp32's; ``agreement`` the share of equal top-1 classes, None where there are no classes.
    ``latency_us`` estimates a call by the measured times of its layers; None where no engine told them.
    """

    layers: int
    layer: str | None
    fp32_share: float
    error: float
    agreement: float | None
    latency_us: float | None = None


class VariantFile(Record):
    """One variant in one form, ready for the engines that build from that form; ``restored`` is int8-mixed's way."""

    variant: str
    form: Form
    artifact: Artifact
    notes: tuple[str, ...] = ()
    restored: tuple[Restored, ...] = ()


class CandidateSpec(Record):
    """What was asked for: one variant on one engine for one target."""

    target: str
    variant: str
    engine: str

    def __str__(self) -> str:
        """``variant/engine``, as tables show it."""
        return f"{self.variant}/{self.engine}"


class Built(Record):
    """An engine file; its digest identifies the candidate.

    ``parity`` is that with the reference at the edges of the dynamic dimensions; None of the reference itself.
    ``rebuilds`` are the files of further builds that gave other bytes, each once; what is measured, registered and
    served is ``artifact``. ``restored`` is that of the file it was built from.
    """

    spec: CandidateSpec
    artifact: Artifact
    options: dict[str, Option]
    engine_version: str
    notes: tuple[str, ...] = ()
    parity: Parity | None = None
    rebuilds: tuple[Artifact, ...] = ()
    restored: tuple[Restored, ...] = ()
