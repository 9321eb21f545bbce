"""An ONNX file as Slipway's registry holds an engine, for ``slipway serve``; nothing was measured on it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from slipway.records import (
    Artifact,
    CandidateSpec,
    Decision,
    Evidence,
    ModelSource,
    Release,
    Signature,
    TargetOutcome,
    TensorSpec,
    Verdict,
)
from slipway.stores.objects import digest_of
from slipway.wiring import host_hardware, workshop

NAME, TARGET = "resnet", "here"
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 3, 224, 224)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, 1000)),),
)
UNTOLD = "0" * 32
DECISION = Decision(verdict=Verdict.PASS, reasons=("it is served to be timed",))


def register(root: Path, model: Path, threads: int) -> None:
    """Make ``model`` the champion of a project in ``root``, to be run with so many threads."""
    evidence = _evidence(model, threads)
    registry, name = workshop(root).registry, f"{NAME}.{TARGET}"
    recorded = registry.record_release(_release(evidence), {str(evidence.digest): model}, [])
    registry.promote(name, registry.register(name, recorded, evidence), None, None)


def _evidence(model: Path, threads: int) -> Evidence:
    return Evidence(
        digest=digest_of(model),
        spec=CandidateSpec(target=TARGET, variant="int8-static", engine="onnxruntime"),
        options={"threads": threads},
        model_uri=f"models:/{NAME}/1",
        model_digest=UNTOLD,
        data_md5=UNTOLD,
        calibration_md5=None,
        code_revision="unknown",
        hardware=host_hardware(),
        size_bytes=model.stat().st_size,
        engine_version=importlib.metadata.version("onnxruntime"),
        accuracy=None,
        parity=None,
        executed_precision={},
        timing=None,
        gates={},
        decision=DECISION,
        signature=SIGNATURE,
    )


def _release(evidence: Evidence) -> Release:
    outcome = TargetOutcome(
        target=TARGET,
        decision=DECISION,
        chosen=evidence.digest,
        tied=(),
        pareto=(),
        hardware=evidence.hardware,
        reference_value=None,
        reference_latency=None,
        candidates=(evidence,),
    )
    source = ModelSource(
        uri=evidence.model_uri,
        name=NAME,
        version="1",
        format="pt2",
        digest=UNTOLD,
        program=Artifact(digest=UNTOLD, name="model.pt2", size_bytes=0),
        signature=SIGNATURE,
    )
    return Release(
        model=source,
        data_md5=UNTOLD,
        calibration_md5=None,
        code_revision="unknown",
        metric="top1",
        targets=(outcome,),
    )
