"""Which nodes compute in int8, and what the graph with quantize and dequantize nodes says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slipway.errors import UnsupportedError
from slipway.variants.qdq import (
    activations,
    layers,
    multiply_accumulates,
    prepared,
    quantized,
    representable,
    selected,
    told,
)
from tests.unit.variants.conftest import OnnxOf
from tests.unit.variants.models import Depthwise, Residual, Series, Transformer, TwoByTwo, Upsampling, batch_of


def types(model: onnx.ModelProto, names: frozenset[str] | set[str]) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node if node.name in names)


def all_layers(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in layers(model)}


def with_wide_ranges(model: onnx.ModelProto) -> onnx.ModelProto:
    names = all_layers(model)
    return quantized(model, names, dict.fromkeys(activations(model, selected(model, names)), (-4.0, 4.0)))


def test_of_a_transformer_only_what_has_weights_computes_in_int8(onnx_of: OnnxOf) -> None:
    """Attention's products, masks, sums and normalisations stay: a mask of -inf would leave its range no resolution."""
    model = prepared(onnx_of(Transformer))
    chosen = types(model, selected(model, all_layers(model)))
    assert (chosen["Conv"], chosen["MatMul"], chosen["Gemm"]) == (1, 4, 1)
    assert types(model, {node.name for node in model.graph.node})["MatMul"] == 6
    assert not {"Add", "Mul", "Softmax", "LayerNormalization", "Gelu"} & set(chosen)


def test_a_residual_sum_between_convolutions_runs_in_int8(onnx_of: OnnxOf) -> None:
    model = prepared(onnx_of(Residual))
    assert types(model, selected(model, all_layers(model)))["Add"] == 1


def test_a_sum_next_to_a_layer_in_fp32_stays_in_fp32_too(onnx_of: OnnxOf) -> None:
    model = prepared(onnx_of(Residual))
    stem, block, *rest = (node.name for node in layers(model))
    for left_out in (stem, block, rest[0]):
        assert types(model, selected(model, all_layers(model) - {left_out}))["Add"] == 0


def test_a_sum_of_matrix_products_stays_in_fp32(onnx_of: OnnxOf) -> None:
    model = prepared(onnx_of(TwoByTwo))
    assert types(model, selected(model, all_layers(model))).keys() <= {"Gemm", "Relu"}


def test_a_mask_needs_no_range() -> None:
    """Its -inf would have none; the nodes that slice it move values that are not in int8."""
    constants = {
        "weight": np.ones((4, 4), np.float32),
        "masks": np.full((8, 4), -np.inf, np.float32),
        **{"starts": np.int64([0]), "ends": np.int64([1])},
    }
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["scores"], name="product"),
        helper.make_node("Slice", ["masks", "starts", "ends"], ["mask"], name="slice"),
        helper.make_node("Add", ["scores", "mask"], ["y"], name="add"),
    ]
    x, y, *inner = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y", "scores", "mask")
    )
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializers, value_info=inner))
    assert selected(model, {"product"}) == {"product"}
    assert activations(model, selected(model, {"product"})) == ("x", "scores")


def test_answers_and_matrix_products_are_not_rounded(onnx_of: OnnxOf) -> None:
    made = with_wide_ranges(prepared(onnx_of(Residual)))
    (head,) = (node for node in made.graph.node if node.op_type == "Gemm")
    assert head.output[0] == "logits"
    assert "logits" not in representable(made)


def test_weights_are_s8_per_output_channel_and_activations_u8(onnx_of: OnnxOf) -> None:
    made = with_wide_ranges(prepared(onnx_of(Series)))
    constants = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].dtype == np.uint8
            assert constants[node.input[1]].shape == ()
    first = next(node for node in made.graph.node if node.op_type == "Conv")
    weight = next(node for node in made.graph.node if node.output[0] == first.input[1])
    assert constants[weight.input[0]].dtype == np.int8
    assert constants[weight.input[1]].shape == (16,)


def test_what_an_activation_can_hold_is_what_its_range_said(onnx_of: OnnxOf) -> None:
    """Up to half a step beyond the range, which rounds to its end."""
    held = representable(with_wide_ranges(prepared(onnx_of(Residual))))
    step = 8 / 255
    assert "image" in held
    for low, high in held.values():
        assert (low, high) == pytest.approx((-4 - step / 2, 4 + step / 2), abs=0.51 * step)


def test_the_same_ranges_give_the_same_bytes(onnx_of: OnnxOf) -> None:
    once, again = (with_wide_ranges(prepared(onnx_of(Depthwise))).SerializeToString() for _ in range(2))
    assert once == again


def test_words_tell_what_stays_in_fp32(onnx_of: OnnxOf) -> None:
    made = with_wide_ranges(prepared(onnx_of(Transformer)))
    assert told(made) == ("1 of 1 Conv in int8", "4 of 6 MatMul in int8", "1 of 1 Gemm in int8")


def test_multiply_accumulates_are_counted_by_shape(onnx_of: OnnxOf) -> None:
    for kind, wanted in {
        # stem and block 16 x 16, the last convolution 14 x 14, each 3 x 3
        Residual: [256 * 8 * 27, 256 * 8 * 72, 196 * 8 * 72, 8 * 10],
        Upsampling: [64 * 8 * 27, 64 * 8 * 3 * 16],
        TwoByTwo: [60 * 16, 30 * 16, 16 * 4],
    }.items():
        model = prepared(onnx_of(kind))
        names = [node.name for node in layers(model)]
        assert sorted(multiply_accumulates(model, names, batch_of(kind, 3)).values()) == sorted(wanted)


def upsampling(groups: int) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 2, 2, 2), np.float32), "weight")
    bias = numpy_helper.from_array(np.ones(2 * groups, np.float32), "bias")
    node = helper.make_node("ConvTranspose", ["x", "weight", "bias"], ["y"], name="up", group=groups)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    return helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight, bias]))


def test_a_grouped_transposed_convolution_stays_in_fp32() -> None:
    """ONNX Runtime's quantizer would give its bias as many scales as one group has channels."""
    assert [node.name for node in layers(upsampling(groups=1))] == ["up"]
    with pytest.raises(UnsupportedError, match="its ConvTranspose would stay as they are"):
        layers(upsampling(groups=2))


def product(second: str, dtype: str = "float32") -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", second], ["y"], name="product")
    of_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [helper.make_tensor_value_info(name, of_type, None) for name in ("x", "z", "y")]
    weight = numpy_helper.from_array(np.ones((4, 4), dtype), "weight")
    return helper.make_model(helper.make_graph([node], "g", ends[:2], ends[2:], [weight]))


def test_a_product_of_two_activations_is_no_layer() -> None:
    assert len(layers(product("weight"))) == 1
    with pytest.raises(UnsupportedError, match="with constant fp32 weights; its MatMul would stay as they are"):
        layers(product("z"))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_weights_of_another_type_than_fp32_are_left_alone(dtype: str) -> None:
    with pytest.raises(UnsupportedError, match="with constant fp32 weights; its MatMul would stay as they are"):
        layers(product("weight", dtype))


def with_token(constant: bool) -> onnx.ModelProto:
    """A convolution whose answer is joined to a class token, a constant, or to what pooling answers."""
    random = np.random.default_rng(0)
    arrays = {
        "weight": random.standard_normal((8, 3, 4, 4)).astype(np.float32),
        "bias": 10 * random.standard_normal(8).astype(np.float32),
        "token": random.standard_normal((1, 3, 4, 4)).astype(np.float32),
        "rest": np.int64([3, 4, 4]),
    }
    spread = [
        helper.make_node("Shape", ["x"], ["examples"], start=0, end=1),
        helper.make_node("Concat", ["examples", "rest"], ["shape"], axis=0),
        helper.make_node("Expand", ["token", "shape"], ["other"]),
    ]
    pool = [helper.make_node("AveragePool", ["x"], ["other"], kernel_shape=[4, 4], strides=[4, 4])]
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["patches"], name="patches", strides=[4, 4]),
        *(spread if constant else pool),
        helper.make_node("Concat", ["other", "patches"], ["joined"], axis=1),
        helper.make_node("Softplus", ["joined"], ["y"]),
    ]
    shapes = {"x": ["n", 3, 16, 16], "y": ["n", 11, 4, 4], "patches": ["n", 8, 4, 4]}
    x, y, patches = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items() if constant or name != "token"]
    graph = helper.make_graph(nodes, "g", [x], [y], constants, value_info=[patches])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def openvino_error(model: onnx.ModelProto, made: onnx.ModelProto) -> float:
    import openvino

    core, x = openvino.Core(), np.random.default_rng(1).uniform(-2, 2, (4, 3, 16, 16)).astype(np.float32)
    expected, found = (
        core.compile_model(core.read_model(one.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
        for one in (model, made)
    )
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_a_convolution_that_is_joined_to_a_class_token_stays_in_fp32() -> None:
    """OpenVINO's answers were off by their own size; once they are not, the rule can go."""
    wide = {"x": (-2.0, 2.0), "patches": (-60.0, 60.0)}
    model = with_token(constant=True)
    with pytest.raises(UnsupportedError, match="its Conv would stay as they are"):
        layers(model)
    assert openvino_error(model, quantized(model, {"patches"}, wide)) > 0.3
    model = with_token(constant=False)
    assert [node.name for node in layers(model)] == ["patches"]
    assert openvino_error(model, quantized(model, {"patches"}, wide)) < 0.1


def test_a_layer_that_answers_less_than_once_per_example_costs_something() -> None:
    """Its share of the batch's multiplications would round to none, and the ranking divides by it."""
    weight = numpy_helper.from_array(np.ones((4, 1), np.float32), "weight")
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], name="mean", keepdims=1),
        helper.make_node("MatMul", ["mean", "weight"], ["y"], name="product"),
    ]
    x, y, mean = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {"x": ["n", 4], "y": [1, 1], "mean": [1, 4]}.items()
    )
    axis = numpy_helper.from_array(np.int64([0]), "axis")
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, axis], value_info=[mean])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert multiply_accumulates(model, ["product"], {"x": np.ones((2, 4), np.float32)}) == {"product": 2}
    assert multiply_accumulates(model, ["product"], {"x": np.ones((32, 4), np.float32)}) == {"product": 1}
