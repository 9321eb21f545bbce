"""Records of every step, as a step before would have left them."""

from __future__ import annotations

from slipway.config import AccuracyParams, Params, TargetParams
from slipway.records import (
    Accuracy,
    Artifact,
    Built,
    CandidateSpec,
    DataSource,
    Decision,
    Evidence,
    Failure,
    Interval,
    Layer,
    ModelSource,
    Parity,
    Profile,
    Timed,
    Timing,
    Validated,
    Verdict,
)
from slipway.steps.judge import Context
from tests.fakes.evidence import DATA_MD5, HARDWARE, LATENCY, SIGNATURE, TIMING

ACCURACY = AccuracyParams()
TARGET = TargetParams(engines=("torch", "onnxruntime"))
PARAMS = Params.model_validate({"model": "models:/digits/1", "data": {"test": "data"}, "targets": {"x86": TARGET}})
SPEC = CandidateSpec(target="x86", variant="int8-static", engine="onnxruntime")
PARITY = Parity(max_abs_diff=0.25, max_rel_diff=0.5, cosine=0.9995, top1_agreement=0.99, n=1000)
MEASURED = Accuracy(
    metric="top1",
    value=0.979,
    reference_value=0.98,
    drop=0.001,
    drop_lower=-0.002,
    drop_upper=0.004,
    confidence=0.95,
    method="Tango score interval",
    n=1000,
    flips=7,
    discordant=3,
    worst_class="class 8: 95.0% -> 93.0% (n=100)",
)


def artifact(letter: str, name: str = "engine.onnx", size_bytes: int = 1_500_000) -> Artifact:
    """An artifact whose digest is one letter."""
    return Artifact(digest=letter * 64, name=name, size_bytes=size_bytes)


BUILT = Built(
    spec=SPEC, artifact=artifact("e"), options={"level": "all"}, engine_version="1.31.1", notes=("2 of 2 Conv in int8",)
)
VALIDATED = Validated(
    accuracy=MEASURED,
    parity=PARITY,
    executed_precision={"int8": 3, "fp32": 1},
    predictions=artifact("9"),
    scores=artifact("8", "scores.npz"),
)


def timing(speedup: float = 2.0, *, settled: bool = True, p99_ms: float | None = 3.0) -> Timing:
    """A timing of a candidate on 2 threads; the interval is a tenth to each side."""
    latency = LATENCY.model_copy(update={"p99_ms": p99_ms, "threads": 2, "settled": settled, "samples": 700})
    interval = Interval(value=speedup, lower=speedup * 0.9, upper=speedup * 1.1)
    return TIMING.model_copy(
        update={"latency": latency, "speedup": interval, "throughput_per_s": {"1": 900.0, "8": 2000.0}}
    )


def profile(*precisions: str) -> Profile:
    """Convolutions in these precisions."""
    layers = (
        Layer(name=f"conv_{number}", kind="Conv", precision=precision, multiplies=True, time_us=10.0)
        for number, precision in enumerate(precisions)
    )
    return Profile(tool="onnxruntime profiler", layers=tuple(layers), calls=10, batch=1, threads=2)


TIMED = Timed(timing=timing(), over_champion=None, profile=profile("int8", "int8"), trace=artifact("7", "trace.json"))


def failed(step: str, verdict: Verdict = Verdict.FAIL, reason: str = "it broke") -> Failure:
    """That ``step`` ended so."""
    return Failure(step=step, decision=Decision(verdict=verdict, reasons=(reason,)))


def context(calibration_md5: str | None = None) -> Context:
    """A release of ``models:/digits/1``."""
    model = ModelSource(
        uri="models:/digits/1",
        name="digits",
        version="1",
        format="pt2",
        digest="a" * 64,
        program=artifact("b", "model.pt2"),
        signature=SIGNATURE,
    )

    def data(md5: str) -> DataSource:
        return DataSource(path="data", md5=md5, files=1, size_bytes=1)

    return Context(
        model=model,
        data=data(DATA_MD5),
        calibration=data(calibration_md5) if calibration_md5 else None,
        code_revision="c0ffee",
        hardware=HARDWARE,
    )


def verdicts(evidence: Evidence) -> dict[str, Verdict]:
    """The verdict of each gate."""
    return {name: gate.verdict for name, gate in evidence.gates.items()}
