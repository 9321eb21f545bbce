from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.engines import engine
from slipway.engines.base import BuildOptions, RunOptions
from slipway.exports.program import export_program
from slipway.records import CandidateSpec, Evidence, Profile, Signature, TensorSpec, Throughput
from slipway.reports.bottlenecks import converts, why_not_faster
from tests.fakes.evidence import LATENCY, TIMING, evidence
from tests.unit.reports.profiles import layer, profile

CONVOLUTION = layer("conv", "QLinearConv", "int8", 100.0)


def told(after: Profile | None, before: Profile | None = None, variant: str = "int8-static", **changes: object) -> str:
    """Every sentence on a candidate without timing, or with what ``changes`` say, a line each."""
    spec = CandidateSpec(target="x86", variant=variant, engine="onnxruntime")
    fields: dict[str, object] = {"spec": spec, "timing": None, "profile": after, "reference_profile": before}
    found: Evidence = evidence("1" * 64, **(fields | changes))
    return "\n".join(why_not_faster(found))


def test_all_time_in_one_int8_convolution_has_nothing_to_blame() -> None:
    assert told(profile(CONVOLUTION)) == (
        "of 0.100 ms in operators, 100% goes into multiplying, 0% into converting types and layouts, 0% into the rest"
    )


def test_time_is_split_by_what_it_goes_into() -> None:
    found = profile(CONVOLUTION, layer("q", "QuantizeLinear", time_us=60.0), layer("add", "Add", time_us=40.0))
    assert told(found).startswith(
        "of 0.200 ms in operators, 50% goes into multiplying, 30% into converting types and layouts, 20% into the rest"
    )


def test_the_reference_is_compared_where_time_is_saved() -> None:
    before = profile(layer("conv2d", "mkldnn_convolution", time_us=400.0), layer("relu", "relu", time_us=30.0))
    assert (
        "multiplying takes 0.100 ms, in the reference 0.400 ms (4.0x as fast); "
        "all else takes 0.000 ms, in the reference 0.030 ms"
    ) in told(profile(CONVOLUTION), before).splitlines()


def test_fallbacks_are_told_with_their_share_of_the_time() -> None:
    found = profile(CONVOLUTION, layer("slow", "Convolution", "fp32", 300.0))
    assert "1 of 2 convolutions and matrix products fell back to fp32: 75% of the time" in told(found).splitlines()
    assert "products stayed in fp32: 75%" in told(found, variant="int8-mixed"), "it was left there on purpose"


def test_what_the_variant_leaves_in_fp32_by_design_is_no_fallback() -> None:
    found = profile(layer("conv", "Convolution", time_us=90.0), layer("head", "QGemm", "int8", 10.0))
    lines = told(found, variant="int8-dynamic").splitlines()
    expected = "int8-dynamic lowers only matrix products with weights: it leaves 1 Convolution in fp32, 90% of the time"
    assert expected in lines
    assert not any("fell back" in line for line in lines)


@pytest.mark.parametrize(
    ("kind", "is_conversion"),
    [
        ("QuantizeLinear", True),
        ("DequantizeLinear", True),
        ("FakeQuantize", True),
        ("Convert", True),
        ("Cast", True),
        ("Reorder", True),
        ("ReorderOutput", True),
        ("onednn::reorder", True),
        ("to", True),
        ("to_mkldnn", True),
        ("Transpose", True),
        ("Relu", False),
        ("ReduceMean", False),
        ("QLinearAdd", False),
        ("QLinearConv", False),  # it multiplies
        ("Convolution", False),
    ],
)
def test_conversions_of_every_runtime_are_known(kind: str, is_conversion: bool) -> None:
    assert converts(layer("it", kind)) is is_conversion


def test_conversions_are_told_by_kind() -> None:
    layers = [layer(f"q{i}", "QuantizeLinear", time_us=20.0) for i in range(2)]
    found = profile(CONVOLUTION, *layers, layer("t", "Transpose", time_us=60.0))
    expected = "3 operators only convert types or layouts (2 QuantizeLinear, 1 Transpose): 50% of the time"
    assert expected in told(found).splitlines()


def test_one_conversion_is_told_in_the_singular() -> None:
    found = profile(CONVOLUTION, layer("q", "QuantizeLinear", time_us=100.0))
    assert "1 operator only converts types or layouts (1 QuantizeLinear): 50% of the time" in told(found).splitlines()


def test_memory_bound_operators_are_told_by_kind() -> None:
    found = profile(CONVOLUTION, layer("a", "Add", time_us=50.0), layer("m", "MaxPool", time_us=50.0))
    assert (
        "2 operators multiply nothing (1 Add, 1 MaxPool): 50% of the time, which memory bounds and not arithmetic, so "
        "that a lower precision saves little of it"
    ) in told(found).splitlines()


def test_what_takes_next_to_no_time_is_left_out() -> None:
    found = profile(CONVOLUTION, layer("q", "QuantizeLinear", time_us=1.0), layer("add", "Add", time_us=1.0))
    assert len(told(found).splitlines()) == 1


def test_kernels_of_last_resort_are_told_of_both() -> None:
    slow = profile(layer("conv2d", "_slow_conv2d_forward", time_us=75.0), layer("c", "mkldnn_conv2d", time_us=25.0))
    lines = told(slow, slow, variant="fp32").splitlines()
    assert "it runs 1 operator in kernels of last resort (1 _slow_conv2d_forward): 75% of its time" in lines
    assert "the reference runs 1 operator in kernels of last resort (1 _slow_conv2d_forward): 75% of its time" in lines


def test_time_outside_operators_is_what_remains_of_a_call() -> None:
    timing = TIMING.model_copy(update={"latency": LATENCY.model_copy(update={"p50_ms": 0.125})})
    assert ("20% of a call (0.025 ms of 0.125 ms) passes outside operators: dispatch, and copies in and out") in told(
        profile(CONVOLUTION), timing=timing
    ).splitlines()


@pytest.mark.parametrize("change", [{"threads": 2}, {"batch": 8}, {"p50_ms": 0.09}])
def test_calls_of_other_settings_are_not_compared(change: dict[str, float]) -> None:
    """Nor do latencies below the operators' own time say anything: a profiler slows calls down."""
    timing = TIMING.model_copy(update={"latency": LATENCY.model_copy(update={"p50_ms": 0.125, **change})})
    assert "outside operators" not in told(profile(CONVOLUTION), timing=timing)


@pytest.mark.parametrize("whose", ["", "reference's "])
def test_a_disturbed_profile_is_told_and_compared_with_nothing(whose: str) -> None:
    """On a busy host operators of the reference took 17.5 ms, of a call of 2.0 ms: 70 times as fast, it said."""
    quiet = profile(layer("conv", "Convolution", time_us=1900.0))
    disturbed = profile(layer("conv", "Convolution", time_us=17500.0))
    latency = LATENCY.model_copy(update={"p50_ms": 2.0})
    timing = TIMING.model_copy(update={"latency": latency, "reference_latency": latency})
    both = (quiet, disturbed) if whose else (disturbed, quiet)
    found = told(*both, variant="fp32", timing=timing)
    expected = f"the {whose}profile was disturbed: operators take 17.500 ms, a call 2.000 ms; shares are rough"
    assert expected in found.splitlines()
    assert "x as fast" not in found
    assert "x as fast" in told(quiet, quiet, variant="fp32", timing=timing)


def test_threads_are_told_against_those_tried() -> None:
    tried = [(1, 1, 1, 1000.0), (1, 2, 1, 800.0), (8, 2, 1, 9999.0), (1, 2, 2, 9999.0)]
    settings = tuple(Throughput(batch=b, threads=t, streams=s, examples_per_s=rate) for b, t, s, rate in tried)
    lines = told(profile(CONVOLUTION), timing=TIMING.model_copy(update={"throughput": settings})).splitlines()
    expected = "it runs with 1 thread, the reference with 1; with 2 threads it answers 0.80x as many examples a second"
    assert lines[-1] == expected


def test_threads_are_told_where_nothing_else_was_tried() -> None:
    assert told(profile(CONVOLUTION), timing=TIMING).splitlines()[-1] == "it runs with 1 thread, the reference with 1"


def test_without_a_profile_nothing_is_made_up() -> None:
    assert told(None) == "no profile was taken, so that only the latencies tell"
    assert told(profile(layer("conv", "QLinearConv", time_us=None))) == "a profiler told no times"


class Wasteful(nn.Module):
    """A small product, and a lot of element-wise work and reordering around it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors [N, 64] to scores [N, 4]."""
        for _ in range(8):
            x = torch.relu(torch.sin(x) + 1)
        return self.head(x)


@pytest.mark.parametrize("batch", [2048])
def test_real_profiles_blame_what_was_planted(batch: int, tmp_path: Path) -> None:
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 64)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),),
    )
    arrays = {"x": np.ones((batch, 64), "float32")}
    export_program(Wasteful().eval(), arrays, signature, tmp_path / "source.pt2")
    torch_engine = engine("torch")
    torch_engine.build(tmp_path / "source.pt2", tmp_path / "it.pt2", BuildOptions(variant="fp32", signature=signature))
    found = torch_engine.profile(tmp_path / "it.pt2", RunOptions(), arrays, 5, tmp_path / "trace.json")
    lines = told(found, found, variant="fp32").splitlines()
    (memory_bound,) = (line for line in lines if "multiply nothing" in line)
    assert memory_bound.startswith("24 operators multiply nothing (8 sin, 8 add, 8 relu): ")
    assert "(1.0x as fast)" in lines[1]
