from __future__ import annotations

from slipway.records import Decision, Interval, Scenario, Throughput, Verdict
from slipway.reports.explanation import explanation
from slipway.reports.restored import lines
from tests.fakes.evidence import HARDWARE, TIMING, evidence
from tests.unit.reports.profiles import layer, profile
from tests.unit.reports.test_restored import WAY
from tests.unit.steps.records import MEASURED, PARITY, timing

FAILED = Decision(verdict=Verdict.FAIL, reasons=("build: no such operator",))
GATES = {
    "accuracy": Decision(verdict=Verdict.PASS, reasons=("drop within",)),
    "size_mb": Decision(verdict=Verdict.FAIL, reasons=("too large", "by far")),
}
EVIDENCE = evidence(
    "1" * 64,
    accuracy=MEASURED,
    parity=PARITY,
    timing=timing(),
    executed_precision={"int8": 3},
    calibration_md5="c" * 32,
    training_md5="b" * 32,
    gates=GATES,
    notes=("2 of 2 Conv in int8",),
)
INT8 = EVIDENCE.spec.model_copy(update={"variant": "int8-static"})
AFTER = profile(layer("a", "QLinearConv", "int8", 75.0), layer("b", "Convolution", "fp32", 25.0), tool="after")
BEFORE = profile(layer("conv2d", "mkldnn_convolution", time_us=400.0), tool="before")


def test_a_measured_candidate() -> None:
    assert explanation(EVIDENCE) == {
        "What it is": [
            f"engine file sha256 {'1' * 64}",
            "onnxruntime 1.0, options {'opset': 20}",
            f"made from models:/digits/1, model sha256 {'a' * 64}",
            f"test data md5 {EVIDENCE.data_md5}, calibration md5 {'c' * 32}, training md5 {'b' * 32}",
            "code revision c0ffee",
            "measured on cpu, 2 cores",
            "2 of 2 Conv in int8",
        ],
        "Gates": ["accuracy: PASS: drop within", "size_mb: FAIL: too large", "size_mb: FAIL: by far"],
        "Accuracy": [
            "top1 0.9790, reference 0.9800, n=1000",
            "drop +0.0010, between -0.0020 and +0.0040 (each bound at 95%, Tango score interval)",
            "changed answers: 7; worst class: class 8: 95.0% -> 93.0% (n=100)",
            "outputs differ by at most 0.25, cosine 0.999500",
        ],
        "Speed": [
            "p50 1.000 ms, batch 1, 2 threads, 700 samples; reference 1.000 ms with 1 threads",
            "p90 1.500 ms, p99 3.000 ms",
            "2.00x the reference's speed, 95% interval 1.80 to 2.20",
            "900 examples/s: batch 1",
            "2,000 examples/s: batch 8",
            "loads in 0.10 s, peak memory 0 MiB",
            "host load 0.0 before, 0.0 after, steal 0.0%",
        ],
        "Executed precision": ["layers that multiply: 3 in int8"],
        "Why it is not faster": ["no profile was taken, so that only the latencies tell"],
    }


def test_every_setting_of_throughput_and_what_loadgen_concluded() -> None:
    settings = (
        Throughput(batch=1, threads=1, streams=2, examples_per_s=1500.0),
        Throughput(batch=8, threads=2, streams=1, examples_per_s=2000.0),
    )
    run = Scenario(
        name="server",
        percentile=99,
        latency_ms=4.5,
        examples_per_s=49.6,
        queries=662,
        valid=False,
        target_per_s=50,
        tool="LoadGen 6.0",
    )
    latency = timing().latency.model_copy(update={"p99_interval_ms": Interval(value=3, lower=2, upper=7)})
    measured = timing().model_copy(update={"latency": latency, "throughput": settings, "scenario": run})

    told = explanation(EVIDENCE.model_copy(update={"timing": measured}))["Speed"]

    assert told[1] == "p90 1.500 ms, p99 3.000 ms (2.000 to 7.000 at 95%)"
    assert told[3:6] == [
        "2,000 examples/s: batch 8, threads 2, streams 1",
        "1,500 examples/s: batch 1, threads 1, streams 2",
        "LoadGen 6.0 server, INVALID: p99 4.500 ms, 49.6 examples/s of 50 asked for, 662 queries",
    ]


def test_a_candidate_that_was_never_built() -> None:
    told = explanation(
        evidence(
            None,
            accuracy=None,
            timing=None,
            engine_version=None,
            options={},
            gates={"build": FAILED},
            decision=FAILED,
        )
    )

    assert told["What it is"][:2] == ["engine file sha256 none: it was never built", "onnxruntime , options none"]
    assert f"test data md5 {EVIDENCE.data_md5}, calibration md5 none, training md5 none" in told["What it is"]
    assert told["Gates"] == ["build: FAIL: build: no such operator"]
    assert (told["Accuracy"], told["Speed"]) == (["not measured"], ["not measured"])
    assert told["Executed precision"] == ["not told by the runtime"]


def test_the_way_of_int8_mixed_is_a_section_of_its_own() -> None:
    told = explanation(EVIDENCE.model_copy(update={"restored": WAY}))

    assert told["Layers back in fp32"] == lines(WAY)
    assert "Layers back in fp32" not in explanation(EVIDENCE)


def test_a_measure_that_does_not_apply_is_told_so() -> None:
    regression = MEASURED.model_copy(update={"flips": None, "worst_class": None})
    told = explanation(EVIDENCE.model_copy(update={"accuracy": regression}))

    assert "changed answers: not applicable; worst class: none" in told["Accuracy"]


def test_the_first_answer_is_told_where_it_was_timed() -> None:
    told = explanation(evidence("1" * 64, timing=TIMING.model_copy(update={"first_inference_seconds": 0.25})))

    assert "loads in 0.10 s, answers first after 0.250 s more, peak memory 0 MiB" in told["Speed"]


def test_executed_precision_comes_from_the_profile() -> None:
    told = explanation(evidence("1" * 64, spec=INT8, profile=AFTER))

    assert told["Executed precision"] == [
        "1 of 2 convolutions and matrix products ran in int8, 1 in fp32: b",
        "by time, 75% of them did",
        "told by after: 2 calls of batch 1, 1 threads",
    ]


def test_a_variant_without_anything_to_lower_is_told_so() -> None:
    found = evidence("1" * 64, spec=INT8, profile=profile(layer("relu", "Relu")))

    assert explanation(found)["Executed precision"] == [
        "convolutions and matrix products: none was executed",
        "told by a profiler: 2 calls of batch 1, 1 threads",
    ]


def test_operators_are_told_before_and_after() -> None:
    told = explanation(evidence("1" * 64, spec=INT8, profile=AFTER, reference_profile=BEFORE))

    assert [line.split()[-1] for line in told["The ten most expensive operators before (reference)"][1:]] == ["conv2d"]
    assert [line.split()[-1] for line in told["The ten most expensive operators after"][1:]] == ["a", "b"]
    assert any(line.startswith("multiplying takes 0.100 ms") for line in told["Why it is not faster"])
    assert "To look deeper on the GPU" not in told


def test_a_gpu_is_looked_at_with_its_own_tools() -> None:
    told = explanation(evidence("1" * 64, hardware=HARDWARE.model_copy(update={"gpu": "NVIDIA H200"})))

    assert [line.split()[0] for line in told["To look deeper on the GPU"]] == ["nsys", "ncu"]
