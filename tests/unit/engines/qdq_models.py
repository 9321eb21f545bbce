"""QDQ models of one convolution, in the spelling that ONNX Runtime's quantizer gives them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

X_SCALE, X_ZERO, Y_SCALE, Y_ZERO = np.float32(0.02), np.uint8(100), np.float32(0.05), np.uint8(0)
WEIGHT_SCALES = np.float32([0.01, 0.02])


def convolution(
    *, x_zero: np.uint8 = X_ZERO, y_zero: np.generic = Y_ZERO, zero_points: bool = True, fixed: bool = True
) -> onnx.ModelProto:
    """``y = dequantized(quantized(conv(dequantized(quantized(x)))))``, x [N, 3, 4, 4], y [N, 2, 2, 2].

    With zero point 0, the last pair cuts off what is negative: the Relu that stood there is gone.
    """
    rng = np.random.default_rng(0)
    constants = {
        "x_scale": X_SCALE,
        "x_zero": x_zero,
        "w_q": rng.integers(-127, 128, (2, 3, 3, 3), np.int8),
        "w_scale": WEIGHT_SCALES,
        "w_zero": np.zeros(2, np.int8),
        "b_q": np.int32([500, -400]),
        "b_scale": WEIGHT_SCALES * X_SCALE,
        "b_zero": np.zeros(2, np.int32),
        "y_scale": Y_SCALE,
        "y_zero": y_zero,
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"][: 3 if zero_points else 2], ["x_q"], name="q x"),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_dq"], name="dq x"),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"], name="dq w", axis=0),
        helper.make_node("DequantizeLinear", ["b_q", "b_scale", "b_zero"], ["b"], name="dq b", axis=0),
        helper.make_node("Conv", ["x_dq", "w", "b"], ["conv"], name="conv"),
        helper.make_node("QuantizeLinear", ["conv", "y_scale", "y_zero"], ["y_q"], name="q y"),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "y_zero"], ["y"], name="dq y"),
    ]
    if not fixed:
        del constants["x_scale"]
        nodes.insert(0, helper.make_node("ReduceMax", ["x"], ["x_scale"], name="scale of x", keepdims=0))
    return model(nodes, constants, (3, 4, 4), (2, 2, 2))


def of_constant() -> onnx.ModelProto:
    """``y = x + dequantized(c)`` where the constant is held in u8; x, y [N, 8]."""
    constants = {"c_q": np.arange(0, 256, 32, dtype=np.uint8), "c_scale": np.float32(0.1), "c_zero": np.uint8(60)}
    nodes = [
        helper.make_node("DequantizeLinear", ["c_q", "c_scale", "c_zero"], ["c"], name="dq c"),
        helper.make_node("Add", ["x", "c"], ["y"], name="add"),
    ]
    return model(nodes, constants, (8,), (8,))


def of_floats() -> onnx.ModelProto:
    """``y = conv(relu(conv(x)))`` in fp32, x [N, 3, 4, 4], y [N, 2, 2, 2]."""
    rng = np.random.default_rng(2)
    constants = {
        "w": rng.standard_normal((4, 3, 3, 3), np.float32),
        "b": rng.standard_normal(4, np.float32),
        "v": rng.standard_normal((2, 4, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], name="conv"),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("Conv", ["relu", "v"], ["y"], name="last"),
    ]
    return model(nodes, constants, (3, 4, 4), (2, 2, 2))


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.generic | np.ndarray], x: tuple[int, ...], y: tuple[int, ...]
) -> onnx.ModelProto:
    """A model from ``x`` [N, ...] to ``y`` [N, ...]."""
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", *x))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", *y))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
