"""The symmetric spelling of QDQ files: what NVIDIA's runtimes take, with the answers of the file it came from."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from slipway.config import CalibrationParams
from slipway.engines.qdq_symmetric import is_quantized, respell
from slipway.errors import UnsupportedError
from slipway.variants.int8_static import quantize_onnx_static
from tests.unit.engines import onnx_models, qdq_models


def test_every_type_is_s8_with_zero_point_0_and_biases_are_fp32() -> None:
    model = qdq_models.convolution()
    respell(model)
    constants = _constants(model)
    of_nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert [node.name for node in of_nodes] == ["q x", "dq x", "dq w", "q y", "dq y"]
    for node in of_nodes:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    given = _constants(qdq_models.convolution())
    np.testing.assert_allclose(constants["b"], given["b_q"] * given["b_scale"], rtol=1e-6)
    np.testing.assert_array_equal(constants["w_q"], given["w_q"])
    assert not {"x_zero", "y_zero", "b_q", "b_scale", "x_scale", "y_scale"} & constants.keys()
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(("zero", "farther"), [(100, 3.1), (200, 4.0)])
def test_scale_reaches_as_far_as_the_farther_end_did(zero: int, farther: float) -> None:
    """By its zero point, u8 with scale 0.02 holds -2 to 3.1 or -4 to 1.1; with 0 and scale 0.05, 0 to 12.75."""
    model = qdq_models.convolution(x_zero=np.uint8(zero))
    respell(model)
    constants = _constants(model)
    scales = [constants[node.input[1]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    np.testing.assert_allclose(scales, [farther / 127, 12.75 / 127], rtol=1e-6)


def test_the_relu_that_an_unsigned_range_stood_for_is_put_back() -> None:
    """ONNX Runtime's quantizer takes a Relu away where u8 starts at 0; s8 would let negative values through."""
    x = np.random.default_rng(1).uniform(-2, 3.1, (64, 3, 4, 4)).astype(np.float32)  # what both can hold
    model = qdq_models.convolution()
    expected = _run(model, x)
    respell(model)
    answer = _run(model, x)
    assert (expected == 0).mean() > 0.1
    assert answer.min() == 0
    assert (
        np.abs(answer - expected).max() < 0.35
    )  # steps of y are 0.05 and 0.1; those of x, 0.02 and 0.024, add up over 27 products
    assert expected.max() > 2
    assert [node.op_type for node in model.graph.node].count("Relu") == 1


def test_no_relu_is_added_where_values_may_be_negative_or_never_are() -> None:
    signed = qdq_models.convolution(y_zero=np.uint8(128))
    respell(signed)
    assert "Relu" not in [node.op_type for node in signed.graph.node]
    behind_relu = qdq_models.convolution()
    conv, quantize = (next(n for n in behind_relu.graph.node if n.name == name) for name in ("conv", "q y"))
    behind_relu.graph.node.insert(5, onnx.helper.make_node("Relu", [conv.output[0]], ["relu"], name="relu"))
    quantize.input[0] = "relu"
    respell(behind_relu)
    assert [node.op_type for node in behind_relu.graph.node].count("Relu") == 1


def test_symmetric_file_stays_as_it_is() -> None:
    model = qdq_models.convolution()
    respell(model)
    once = copy.deepcopy(model)
    respell(model)
    assert model == once


def test_constant_is_rounded_anew() -> None:
    model = qdq_models.of_constant()
    given = _constants(model)
    expected = (given["c_q"].astype(np.float32) - 60) * given["c_scale"]
    respell(model)
    constants = _constants(model)
    assert constants["c_q_s8"].dtype == np.int8
    step = constants["c_scale_s8"]
    assert np.abs(_run(model, np.zeros((1, 8), np.float32))[0] - expected).max() <= step / 2 + 1e-6


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (qdq_models.convolution(y_zero=np.uint16(0)), "QuantizeLinear 'q y' has values of type uint16, not int8"),
        (qdq_models.convolution(zero_points=False), "QuantizeLinear 'q x' has no zero point"),
        (qdq_models.convolution(fixed=False), "QuantizeLinear 'q x' takes 'x_scale', which is no constant"),
    ],
)
def test_what_cannot_be_respelled_is_named(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^int8: {message}"):
        respell(model)


def test_float_model_is_not_taken_for_a_quantized_one(tmp_path: Path) -> None:
    assert not is_quantized(onnx.load(onnx_models.save_convolution(tmp_path / "plain.onnx")))
    assert is_quantized(qdq_models.convolution())


def test_answers_of_a_calibrated_model_stay_near_those_of_its_u8_file(tmp_path: Path) -> None:
    """The file that the variant int8-static makes of a convolution with Relu: 8 bits of it become 7."""
    fp32, u8 = tmp_path / "fp32.onnx", tmp_path / "u8.onnx"
    onnx.save(qdq_models.of_floats(), fp32)
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((16, 3, 4, 4), np.float32)} for _ in range(4)]
    quantize_onnx_static(fp32, u8, lambda: iter(batches), CalibrationParams())
    model = onnx.load(u8)
    x = rng.standard_normal((32, 3, 4, 4), np.float32)
    expected, unquantized = _run(model, x), _run(onnx.load(fp32), x)
    respell(model)
    answer = _run(model, x)
    largest = np.abs(unquantized).max()
    assert np.abs(answer - expected).max() < 0.03 * largest
    assert np.abs(answer - unquantized).max() < 0.05 * largest
    assert not np.array_equal(answer, expected)


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": x})
    return answer
