"""Evidence and releases as small as the records allow, for tests that need some and care about few of its fields."""

from __future__ import annotations

from typing import Any

from slipway.records import (
    Accuracy,
    Artifact,
    CandidateSpec,
    Decision,
    Evidence,
    Hardware,
    HostLoad,
    Interval,
    Latency,
    ModelSource,
    Release,
    Signature,
    TargetOutcome,
    TensorSpec,
    Timing,
    Verdict,
)

DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"
PASS = Decision(verdict=Verdict.PASS, reasons=("drop 0.001 <= 0.010",))
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 2)),),
)
HARDWARE = Hardware(
    fingerprint="f" * 64, cpu="cpu", isa=("avx2",), cores=2, memory_bytes=1, gpu=None, machine="x86_64", runtimes={}
)
LATENCY = Latency(p50_ms=1.0, p90_ms=1.5, p99_ms=None, samples=100, batch=1, threads=1, settled=True)
TIMING = Timing(
    latency=LATENCY,
    reference_latency=LATENCY,
    speedup=Interval(value=2.0, lower=1.8, upper=2.2),
    throughput_per_s={"1": 900.0},
    peak_rss_bytes=1,
    load_seconds=0.1,
    host_load=HostLoad(load_1m_before=0.0, load_1m_after=0.0, steal_share=0.0),
)
ACCURACY = Accuracy(
    metric="top1",
    value=0.98,
    reference_value=0.981,
    drop=0.001,
    drop_lower=-0.002,
    drop_upper=0.004,
    confidence=0.95,
    method="tango",
    n=1000,
)


def evidence(digest: str | None, **changes: Any) -> Evidence:
    """Evidence on a passing fp32 candidate on ``onnxruntime`` for ``x86``, or what ``changes`` make of it."""
    fields: dict[str, Any] = {
        "digest": digest,
        "spec": CandidateSpec(target="x86", variant="fp32", engine="onnxruntime"),
        "options": {"opset": 20},
        "model_uri": "models:/digits/1",
        "model_digest": "a" * 64,
        "data_md5": DATA_MD5,
        "calibration_md5": None,
        "code_revision": "c0ffee",
        "hardware": HARDWARE,
        "size_bytes": 5,
        "engine_version": "1.0",
        "accuracy": ACCURACY,
        "parity": None,
        "executed_precision": {},
        "timing": TIMING,
        "gates": {},
        "decision": PASS,
        "signature": SIGNATURE,
    }
    return Evidence(**(fields | changes))


def release(*candidates: Evidence, model: str = "digits", code_revision: str = "c0ffee") -> Release:
    """A release with one outcome per target that the candidates name."""
    outcomes = tuple(
        TargetOutcome(
            target=target,
            decision=PASS,
            chosen=None,
            tied=(),
            pareto=(),
            hardware=HARDWARE,
            reference_value=0.981,
            reference_latency=LATENCY,
            candidates=tuple(one for one in candidates if one.spec.target == target),
        )
        for target in sorted({one.spec.target for one in candidates})
    )
    program = Artifact(digest="b" * 64, name="model.pt2", size_bytes=1)
    source = ModelSource(
        uri=f"models:/{model}/1",
        name=model,
        version="1",
        format="pt2",
        digest="a" * 64,
        program=program,
        signature=SIGNATURE,
    )
    return Release(
        model=source,
        data_md5=DATA_MD5,
        calibration_md5=None,
        code_revision=code_revision,
        metric="top1",
        targets=outcomes,
    )
