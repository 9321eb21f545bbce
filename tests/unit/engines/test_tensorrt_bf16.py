"""The bf16 variant as casts in the graph: what computes in bfloat16, what stays, and how near the answers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from slipway.engines.bf16_onnx import lower
from slipway.errors import UnsupportedError
from tests.unit.engines import onnx_models, qdq_models


def test_products_compute_in_bfloat16_and_inputs_and_outputs_keep_their_type() -> None:
    """ONNX's own reference evaluator takes bfloat16: its answers lie near the fp32 ones, and are not the same."""
    model = qdq_models.of_floats()
    x = np.random.default_rng(0).standard_normal((8, 3, 4, 4), np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    assert lower(model) == ()
    assert {one.data_type for one in model.graph.initializer} == {TensorProto.BFLOAT16}
    assert [node.op_type for node in model.graph.node] == ["Cast", "Conv", "Relu", "Conv", "Cast"]
    (answer,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert answer.dtype == np.float32
    difference = np.abs(answer - expected).max() / np.abs(expected).max()
    assert 1e-4 < difference < 2e-2


def test_sensitive_operators_stay_in_fp32_and_are_told() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("Softmax", ["relu"], ["softmax"]),
        helper.make_node("Add", ["softmax", "relu"], ["y"]),
    ]
    model = qdq_models.model(nodes, {}, (8,), (8,))
    assert lower(model) == ("Softmax",)
    types = {
        one.name: one.type.tensor_type.elem_type for one in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    assert types[softmax.input[0]] == types[softmax.output[0]] == TensorProto.FLOAT
    add = next(node for node in model.graph.node if node.op_type == "Add")
    assert {types[name] for name in (*add.input, *add.output)} == {TensorProto.BFLOAT16}


def test_operator_that_nvidias_parsers_do_not_take_in_bfloat16_stays_in_fp32() -> None:
    """ONNX itself has HardSwish in bfloat16."""
    nodes = [helper.make_node("Relu", ["x"], ["relu"]), helper.make_node("HardSwish", ["relu"], ["y"])]
    model = qdq_models.model(nodes, {}, (8,), (8,))
    assert lower(model) == ("HardSwish",)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Relu", "Cast", "HardSwish"]


def test_branches_stay_in_fp32_and_still_find_what_they_read(tmp_path: Path) -> None:
    model = onnx.load(onnx_models.save_products(tmp_path / "if.onnx"))
    x = np.float32([[1, 2], [3, -1]])
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert lower(model) == ("If", "ReduceSum")
    onnx.checker.check_model(model)
    (answer,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(answer, expected, rtol=2e-2)


def test_constant_that_is_read_in_both_types_is_kept_in_both() -> None:
    nodes = [
        helper.make_node("Add", ["x", "c"], ["sum"]),
        helper.make_node("Softmax", ["c"], ["softmax"]),
        helper.make_node("Mul", ["sum", "softmax"], ["y"]),
    ]
    model = qdq_models.model(nodes, {"c": np.arange(8, dtype=np.float32)}, (8,), (8,))
    lower(model)
    assert {one.data_type for one in model.graph.initializer} == {TensorProto.BFLOAT16, TensorProto.FLOAT}


def test_model_whose_shapes_contradict_each_other_is_refused() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = qdq_models.model(nodes, {"w": np.ones((3, 8), np.float32)}, (8,), (8,))
    with pytest.raises(UnsupportedError, match=r"^bf16: the types of the model's tensors are unknown: "):
        lower(model)
