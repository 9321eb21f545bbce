"""One-operator ONNX models."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from slipway.records import Signature, TensorSpec


def save_convolution(path: Path, dtype: int = TensorProto.FLOAT, operator: str = "Conv") -> Path:
    """``y = Conv(x, w)``, x [N, 3, 8, 8], w [4, 3, 3, 3]; or an ``operator`` of another name."""
    weight = helper.make_tensor("w", dtype, (4, 3, 3, 3), [0.5] * 108)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "one-operator",
        [helper.make_tensor_value_info("x", dtype, ("N", 3, 8, 8))],
        [helper.make_tensor_value_info("y", dtype, ("N", 4, 6, 6))],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    return path


def save_products(path: Path) -> Path:
    """``y = if sum(x) > 0: x (x^T (x w)) else: x w``, x [2, 2]: a product with weights and, inside, two without."""
    x, y, inner = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 2)) for name in ("x", "y", "inner"))
    weights = helper.make_tensor("w", TensorProto.FLOAT, (2, 2), [1.0, 2.0, 3.0, 4.0])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, (), [0.0])
    without_weights = helper.make_graph(
        [
            helper.make_node("Sin", ["x"], ["bent"], name="bend"),
            helper.make_node("MatMul", ["bent", "xw"], ["mixed"], name="first"),
            helper.make_node("MatMul", ["x", "mixed"], ["inner"], name="second"),
        ],
        "then",
        [],
        [inner],
    )
    plain = helper.make_graph([helper.make_node("Identity", ["xw"], ["inner"], name="as it is")], "else", [], [inner])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], name="with weights"),
        helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"], name="positive"),
        helper.make_node("If", ["positive"], ["y"], name="if", then_branch=without_weights, else_branch=plain),
    ]
    graph = helper.make_graph(nodes, "products", [x], [y], [weights, zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    return path


def signature(*, output: str = "y") -> Signature:
    """The signature of that convolution."""
    return Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3, 8, 8)),),
        outputs=(TensorSpec(name=output, dtype="float32", shape=(-1, 4, 6, 6)),),
    )
