"""Records for the tests of decisions: complete and passing, unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from slipway.decisions.paired import tango_bounds
from slipway.records import (
    Accuracy,
    CandidateSpec,
    Decision,
    Evidence,
    Hardware,
    HostLoad,
    Interval,
    Latency,
    Timing,
    Verdict,
)

HARDWARE = Hardware(
    fingerprint="f0", cpu="x86", isa=("avx2",), cores=2, memory_bytes=1, gpu=None, machine="m", runtimes={}
)


def verdict(value: Verdict, *reasons: str) -> Decision:
    return Decision(verdict=value, reasons=reasons)


def counted(n: int, lost: int, gained: int, confidence: float = 0.95, neither: int = 0) -> Accuracy:
    """Top-1 accuracy of a candidate with these paired counts; what is not counted both got right."""
    lower, upper = tango_bounds(n, lost, gained, confidence)
    return Accuracy(
        metric="top1",
        value=(n - lost - neither) / n,
        reference_value=(n - gained - neither) / n,
        drop=(lost - gained) / n,
        drop_lower=lower,
        drop_upper=upper,
        confidence=confidence,
        method="tango",
        n=n,
        discordant=lost + gained,
    )


def bounded(drop: float, lower: float, upper: float, metric: str = "top1", n: int = 1000) -> Accuracy:
    """Accuracy with these bounds at 95%, and no paired counts."""
    return Accuracy(
        metric=metric,
        value=0.9 - drop,
        reference_value=0.9,
        drop=drop,
        drop_lower=lower,
        drop_upper=upper,
        confidence=0.95,
        method="bca",
        n=n,
    )


def latency(p50_ms: float = 5.0, p99_ms: float | None = 9.0, samples: int = 700, settled: bool = True) -> Latency:
    return Latency(p50_ms=p50_ms, p90_ms=7.0, p99_ms=p99_ms, samples=samples, batch=1, threads=1, settled=settled)


def interval(value: float, lower: float | None = None, upper: float | None = None) -> Interval:
    return Interval(value=value, lower=value if lower is None else lower, upper=value if upper is None else upper)


def timing(
    own: Latency | None = None,
    reference: Latency | None = None,
    speedup: Interval | None = None,
    throughput_per_s: Mapping[str, float] | None = None,
) -> Timing:
    return Timing(
        latency=own or latency(),
        reference_latency=reference or latency(p50_ms=10.0),
        speedup=speedup or interval(2.0, 1.9, 2.1),
        throughput_per_s=dict({"1": 200.0, "8": 320.0} if throughput_per_s is None else throughput_per_s),
        peak_rss_bytes=1,
        load_seconds=0.1,
        host_load=HostLoad(load_1m_before=0.5, load_1m_after=3.25, steal_share=0.125),
    )


def evidence(
    name: str = "a",
    decision: Decision | None = None,
    gates: Mapping[str, Decision] | None = None,
    accuracy: Accuracy | None = None,
    timed: Timing | None = None,
    size_bytes: int = 1000,
) -> Evidence:
    """Evidence on a candidate whose digest and variant are ``name``."""
    return Evidence(
        digest=name,
        spec=CandidateSpec(target="x86", variant=name, engine="onnxruntime"),
        options={},
        model_uri="models:/m/1",
        model_digest="d0",
        data_md5="m0",
        calibration_md5=None,
        code_revision="r0",
        hardware=HARDWARE,
        size_bytes=size_bytes,
        engine_version="1",
        accuracy=accuracy or bounded(0.001, -0.002, 0.004),
        parity=None,
        executed_precision={},
        timing=timed or timing(),
        gates={"accuracy": verdict(Verdict.PASS, "fine")} if gates is None else dict(gates),
        decision=decision or verdict(Verdict.PASS, "accuracy: fine"),
    )
