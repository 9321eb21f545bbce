"""A runtime's profile is told by names of its own; each layer's time is found among them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from slipway.engines import engine
from slipway.errors import UnsupportedError
from slipway.steps.operator_times import operator_times
from slipway.variants.int8_static import quantize_onnx_static
from slipway.variants.layer_times import LEAST_US, LayerTimes, Measured, by_layer, layer_times
from slipway.variants.qdq import layers, prepared
from tests.unit.variants.conftest import OnnxOf
from tests.unit.variants.models import SIGNATURES, Depthwise, Residual, Series, Transformer, batch_of, stream
from tests.unit.variants.test_int8_mixed import PARAMS


def graph() -> onnx.ModelProto:
    """Two convolutions whose sum goes through a Relu, a third behind it, all named by what they are."""

    def node(kind: str, name: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node(kind, list(inputs), [f"{name}_out"], name=name)

    nodes = [
        node("Conv", "main", "x", "w"),
        node("Conv", "side", "x", "w"),
        node("Add", "sum", "main_out", "side_out"),
        node("Relu", "relu", "sum_out"),
        node("Conv", "last", "relu_out", "w"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])
    return helper.make_model(helper.make_graph(nodes, "g", [x], [helper.make_empty_tensor_value_info("last_out")]))


LAYERS = ("main", "side", "last")


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"main": 1, "side": 2, "last": 3, "sum": 9}, {"main": 1, "side": 2, "last": 3}),
        ({"main_token_4": 1, "side/WithoutBiases": 2, "last": 3}, {"main": 1, "side": 2, "last": 3}),
        # the sum and the Relu were fused into the first convolution, which is called by what it answers with now
        ({"relu_out_nchwc": 1, "side_out_nchwc": 2, "last_out_nchwc": 3}, {"main": 1, "side": 2, "last": 3}),
        ({"fused main": 1, "side": 2, "fused last_token_1": 3}, {"main": 1, "side": 2, "last": 3}),
        ({"relu_out": 1, "side": 2, "last_out": 3}, {"main": 1, "side": 2, "last": 3}),
        ({"last": 3, "last/reorder": 4}, {"last": 7}),
        ({"relu_out_nchwc": 1}, {}),  # of either convolution, or of both
        ({"mainly": 1, "x": 1, "ReorderOutput": 1}, {}),
    ],
)
def test_the_time_of_each_layer_is_found(told: dict[str, float], found: dict[str, float]) -> None:
    assert by_layer(graph(), LAYERS, told) == found


def test_what_int8_saves_is_what_the_way_back_costs() -> None:
    measured = {
        "fp32": {"main": 10, "side": 5, "last": 3, "relu": 2},
        "int8": {"main": 4, "side": 5, "last": 4, "q": 1},
    }
    found = layer_times(
        graph(), LAYERS, lambda path: Measured("me", measured[path.stem]), Path("fp32.onnx"), Path("int8.onnx")
    )
    assert found == LayerTimes("me", {"main": 6, "side": 0, "last": -1}, int8_us=14, fp32_us=20)
    assert found.costs() == {"main": 6, "side": LEAST_US, "last": LEAST_US}
    assert found.estimated_us(["main", "last"]) == 19


def test_a_layer_that_is_not_told_is_named() -> None:
    measured = {"fp32": {"main": 10, "side": 5, "last": 3}, "int8": {"main": 4, "side": 5}}
    with pytest.raises(UnsupportedError, match="the profile of me does not tell layer last in int8"):
        layer_times(graph(), LAYERS, lambda path: Measured("me", measured[path.stem]), Path("fp32"), Path("int8"))


@pytest.mark.parametrize("kind", [Residual, Depthwise, Transformer, Series])
def test_the_profiler_of_onnx_runtime_tells_every_layer(kind: type, onnx_of: OnnxOf, tmp_path: Path) -> None:
    source, int8 = onnx_of(kind), tmp_path / "int8.onnx"
    quantize_onnx_static(source, int8, stream(kind, 16), PARAMS)
    model = prepared(source)
    onnx.save(model, tmp_path / "fp32.onnx")
    names = [node.name for node in layers(model)]

    found = layer_times(model, names, operator_times(SIGNATURES[kind], batch_of(kind, 1)), tmp_path / "fp32.onnx", int8)

    assert list(found.lost_us) == names
    assert found.by.startswith(f"onnxruntime {engine('onnxruntime').availability().version}, 1 thread, on ")
    assert min(found.fp32_us, found.int8_us) > 0
