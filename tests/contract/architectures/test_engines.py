"""Each architecture in each variant on each engine: it answers as eager fp32 does, or is refused with a reason."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from slipway.engines import ENGINES, engine
from slipway.engines.base import RunOptions
from slipway.measure.hardware import describe
from slipway.records import Failure, Verdict
from slipway.variants import VARIANTS
from tests.contract.architectures.conftest import Journeys
from tests.contract.architectures.models import NAMES

# Largest difference from eager fp32, relative to the largest output: some rounding steps of each precision, which the
# few and narrow layers here average out less than those of a large network do.
TOLERANCE = {
    "fp32": 1e-5,
    "bf16": 5e-2,
    "fp16": 5e-3,
    "int8-dynamic": 8e-2,
    "int8-static": 8e-2,
    "int8-mixed": 8e-2,
    "int8-qat": 8e-2,
}
BATCHES = (1, 2, 5, 1)
# These take the most time and tell the least of an architecture: most of them are left to `make integration`.
SELDOM, SELDOM_BUT_OF = {"bf16", "fp16", "int8-mixed", "int8-qat"}, {"two-by-two", "control-flow"}

# What is refused whatever the architecture: (variant, engine) to the reason told.
REFUSED = {
    ("bf16", "onnxruntime"): "no bfloat16 kernel for Conv, MatMul or Gemm",
    ("int8-dynamic", "torch"): "packed int8 weights cannot be saved in a torch.export program",
    ("int8-static", "torch"): "slower than fp32",
    ("int8-static", "torchscript"): "around fp32 kernels",
    ("int8-mixed", "torch"): "slower than fp32",
    ("int8-mixed", "torchscript"): "around fp32 kernels",
    ("int8-qat", "torch"): "slower than fp32",
    ("int8-qat", "torchscript"): "around fp32 kernels",
    ("fp16", "onnxruntime"): "no float16 kernel for Conv, MatMul or Gemm",
}
if not {"avx512_fp16", "amx_fp16"} & set(describe({}).isa):
    REFUSED["fp16", "openvino"] = "this CPU has no float16 instructions"
if not {"avx512_bf16", "amx_bf16"} & set(describe({}).isa):
    REFUSED["bf16", "openvino"] = "this CPU has no bfloat16 instructions"
# And what is refused for one architecture alone: (architecture, variant, engine).
BEHIND_AN_IF = [
    ("control-flow", variant, "openvino") for variant in ("fp32", "bf16", "int8-dynamic", "int8-static", "int8-mixed")
]
REFUSED_FOR = {
    **dict.fromkeys(BEHIND_AN_IF, r"\bIf\b"),
    **dict.fromkeys(
        [("control-flow", "int8-qat", runtime) for runtime in ("onnxruntime", "openvino")],
        "registered as TorchScript cannot be given int8's rounding",
    ),
    ("control-flow", "fp16", "openvino"): "no converter of ONNX reaches into If",
    ("control-flow", "int8-dynamic", "torchscript"): "made from an exported program",
    ("control-flow", "fp32", "executorch"): "was registered as TorchScript",
    ("control-flow", "int8-static", "executorch"): "made from an exported program",
    ("control-flow", "fp32", "tvm"): "this model was registered as TorchScript",
    **dict.fromkeys(
        [("control-flow", variant, "inductor") for variant in ("fp32", "bf16")],
        "this model was registered as TorchScript",
    ),
}

# Their files run on NVIDIA's GPUs alone.
ELSEWHERE = {"tensorrt", "tensorrt-rtx"}
# These compile for long, each for some variants: left to `make integration`.
COMPILED = {
    "inductor": ("fp32", "bf16"),
    "tvm": ("fp32",),
    "executorch": ("fp32", "int8-static"),
}
COMBINATIONS = [
    (name, variant, runtime)
    for name, variant, runtime in itertools.product(NAMES, VARIANTS, sorted(ENGINES.keys() - ELSEWHERE))
    if variant in COMPILED.get(runtime, (variant,))
]


def _expected_refusal(combination: tuple[str, str, str]) -> str | None:
    return REFUSED_FOR.get(combination) or REFUSED.get(combination[1:])


def _params(*, refused: bool) -> list[object]:
    """The combinations that are to be refused, or those that are to answer."""
    return [
        pytest.param(*one, marks=_marks(one), id="-".join(one))
        for one in COMBINATIONS
        if (_expected_refusal(one) is not None) is refused
    ]


def _marks(combination: tuple[str, str, str]) -> list[pytest.MarkDecorator]:
    name, variant, runtime = combination
    seldom = runtime in COMPILED or (variant in SELDOM and name not in SELDOM_BUT_OF)
    return [pytest.mark.integration] if seldom else []


def test_every_variant_has_a_tolerance_and_every_refusal_is_of_something_that_exists() -> None:
    assert TOLERANCE.keys() == VARIANTS.keys()
    assert {one[1:] for one in REFUSED_FOR} | REFUSED.keys() <= {one[1:] for one in COMBINATIONS}
    assert REFUSED_FOR.keys() <= set(COMBINATIONS)


@pytest.mark.parametrize(("name", "variant", "on"), _params(refused=False))
def test_answers_as_eager_fp32_does_at_any_batch(name: str, variant: str, on: str, journeys: Journeys) -> None:
    journey = journeys(name)
    architecture, spans = journey.architecture, journey.architecture.spans()
    built = journey.built(variant, on)
    assert not isinstance(built, Failure), built
    with engine(on).load(journey.objects.path(built.artifact), RunOptions()) as session:
        for batch in BATCHES:
            arrays = architecture.arrays(batch, seed=10 + batch)
            found, expected = session.infer(arrays), architecture.answers(arrays)
            assert list(found) == list(expected)
            for output, value in expected.items():
                assert (found[output].shape, found[output].dtype) == (value.shape, value.dtype)
                np.testing.assert_allclose(found[output], value, rtol=0, atol=TOLERANCE[variant] * spans[output])


@pytest.mark.parametrize(("name", "variant", "on"), _params(refused=True))
def test_is_refused_with_a_reason_that_a_person_understands(
    name: str, variant: str, on: str, journeys: Journeys
) -> None:
    refused = journeys(name).built(variant, on)
    assert isinstance(refused, Failure), "it was built: does it answer rightly now?"
    assert refused.decision.verdict in {Verdict.SKIPPED, Verdict.FAIL}
    (reason,) = refused.decision.reasons
    assert re.search(str(_expected_refusal((name, variant, on))), reason)
    assert "\n" not in reason
    assert len(reason) < 250


def test_an_lstm_whose_weights_the_exporter_computes_in_the_graph_is_quantized_all_the_same(journeys: Journeys) -> None:
    """The exporter folds constants only while they are small, and a quantizer takes constants alone for weights."""
    journey = journeys("bilstm")
    built = journey.built("int8-dynamic", "onnxruntime")
    assert not isinstance(built, Failure), built
    with engine("onnxruntime").load(journey.objects.path(built.artifact), RunOptions()) as session:
        assert session.executed_precision() == {"int8": 2}
