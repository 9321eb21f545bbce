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


def signature(*, output: str = "y") -> Signature:
    """The signature of that convolution."""
    return Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3, 8, 8)),),
        outputs=(TensorSpec(name=output, dtype="float32", shape=(-1, 4, 6, 6)),),
    )
