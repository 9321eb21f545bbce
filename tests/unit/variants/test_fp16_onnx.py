"""float16 in ONNX: small, near, and in fp32 where float16 ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slipway.errors import RejectedError, UnsupportedError
from slipway.variants.fp16_onnx import reduce_onnx
from slipway.variants.inner_values import Probe
from tests.unit.variants.conftest import OnnxOf
from tests.unit.variants.models import Residual, Transformer, batch_of


def dtypes(path: Path) -> dict[str, int]:
    """The element type of every tensor, by name."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    infos = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return {one.name: one.type.tensor_type.elem_type for one in infos}


def test_weights_and_compute_are_float16_and_the_ends_float32(onnx_of: OnnxOf, tmp_path: Path) -> None:
    source, out = onnx_of(Residual), tmp_path / "m.onnx"
    notes = reduce_onnx(source, out, batch_of(Residual, 4))
    graph, types = onnx.load(out).graph, dtypes(out)
    assert notes == ("kept in fp32 for precision: 1 ReduceMean",)
    assert {one.data_type for one in graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "Relu", "Add"):
            assert types[node.output[0]] == TensorProto.FLOAT16
    assert {types["image"], types["logits"]} == {TensorProto.FLOAT}
    assert out.stat().st_size < 0.75 * source.stat().st_size


def test_normalisation_and_softmax_stay_in_fp32(onnx_of: OnnxOf, tmp_path: Path) -> None:
    notes = reduce_onnx(onnx_of(Transformer), tmp_path / "m.onnx", batch_of(Transformer, 4))
    assert notes == ("kept in fp32 for precision: 3 LayerNormalization, 1 ReduceMean, 1 Softmax",)
    types = dtypes(tmp_path / "m.onnx")
    for node in onnx.load(tmp_path / "m.onnx").graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert types[node.output[0]] == TensorProto.FLOAT


def test_the_same_source_gives_the_same_bytes(onnx_of: OnnxOf, tmp_path: Path) -> None:
    for name in ("one", "two"):
        reduce_onnx(onnx_of(Transformer), tmp_path / name, batch_of(Transformer, 2))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def scaled(folder: Path, *factors: float) -> Path:
    """An ONNX file that multiplies its input by one factor after another."""
    names = ["x", *(f"inner{index}" for index in range(len(factors) - 1)), "y"]
    constants = [numpy_helper.from_array(np.float32([one]), f"by{index}") for index, one in enumerate(factors)]
    nodes = [
        helper.make_node("Mul", [names[index], f"by{index}"], [names[index + 1]], name=f"mul{index}")
        for index in range(len(factors))
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    path = folder / "scaled.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def answer(path: Path, x: np.ndarray) -> np.ndarray:
    """What the graph computes as it is written, each cast included."""
    return Probe(onnx.load(path), ["y"]).run({"x": x})["y"]


@pytest.mark.parametrize(
    ("factors", "in_fp32"),
    [
        ((3.0, 1e3, 1e3, 1e-6, 2.0), 2),  # an inner value overflows: its writer and its reader stay
        ((1e6, 1e-6, 2.0), 2),  # so does a constant
        ((2.0, 1e3, 1e3), 1),  # and the answer itself
        ((2.0, 1e3), 0),
    ],
)
def test_values_beyond_float16_stay_in_fp32(factors: tuple[float, ...], in_fp32: int, tmp_path: Path) -> None:
    """They are handed on in fp32, never cast to float16 in between."""
    x = np.linspace(1, 2, 8, dtype=np.float32).reshape(2, 4)
    source = scaled(tmp_path, *factors)
    notes = reduce_onnx(source, tmp_path / "m.onnx", {"x": x})
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", x), answer(source, x), rtol=4e-3)
    types = dtypes(tmp_path / "m.onnx")
    kept = Counter(types[node.input[0]] for node in onnx.load(tmp_path / "m.onnx").graph.node if node.op_type == "Mul")
    assert kept[TensorProto.FLOAT] == in_fp32
    assert any(note.startswith("kept in fp32 because values exceed 65504: mul") for note in notes) == bool(in_fp32)


def test_control_flow_is_unsupported(tmp_path: Path) -> None:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "branch", [], [y])
    node = helper.make_node("If", ["wanted"], ["y"], then_branch=branch, else_branch=branch)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    wanted = helper.make_tensor_value_info("wanted", TensorProto.BOOL, [])
    graph = helper.make_graph([node], "g", [x, wanted], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m")
    with pytest.raises(UnsupportedError, match="no converter of ONNX reaches into If; use torch or torchscript"):
        reduce_onnx(tmp_path / "m", tmp_path / "h", {"x": np.ones((1, 4), np.float32), "wanted": np.bool_(True)})


def test_a_model_that_does_not_run_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match=r"does not run on the examples: .*double") as caught:
        reduce_onnx(scaled(tmp_path, 2.0), tmp_path / "m.onnx", {"x": np.ones((1, 4), np.float64)})
    assert not any(word in str(caught.value) for word in ("int8", "calibration"))


def test_a_file_that_is_no_model_is_rejected_without_a_word_of_int8(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(RejectedError, match=r"^ONNX Runtime cannot prepare the model: ") as caught:
        reduce_onnx(tmp_path / "broken.onnx", tmp_path / "m.onnx", {"x": np.ones((1, 4), np.float32)})
    assert "\n" not in str(caught.value)
