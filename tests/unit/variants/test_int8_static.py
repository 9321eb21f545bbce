"""Static quantization: QDQ with u8 activations and s8 per-channel weights, ranges from a stream of batches."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from slipway.errors import BadInputError, RejectedError, UnsupportedError
from slipway.exports.calling import Arrays, run
from slipway.exports.onnx import export_onnx
from slipway.variants.int8_static import quantize_onnx_static
from tests.unit.exports.models import ResidualNet, batch_of, make
from tests.unit.exports.test_exports import load_onnx

SIGNATURE = make(ResidualNet)[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, example, signature = make(ResidualNet)
    path = tmp_path_factory.mktemp("source") / "m.onnx"
    export_onnx(model, example, signature, path)
    return path


def batches(*sizes: int) -> Iterator[Arrays]:
    return (batch_of(SIGNATURE, size, seed=index) for index, size in enumerate(sizes))


def test_layers_become_int8_and_answers_stay_near(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q.onnx"
    notes = quantize_onnx_static(source, out, batches(16, 16, 5))
    assert notes == ("2 of 2 Conv in int8", "1 of 1 Gemm in int8", "calibrated on 37 examples")
    graph = onnx.load(out).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    zero_points = {node.input[2]: constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert {one.dtype for one in zero_points.values()} == {np.dtype("uint8")}
    weights = [one for name, one in constants.items() if name.endswith("weight_quantized")]
    assert {one.dtype for one in weights} == {np.dtype("int8")}
    assert [one.shape for name, one in constants.items() if name == "stem.weight_scale"] == [(8,)]
    model, answer = make(ResidualNet)[0], load_onnx(out, SIGNATURE)
    for batch in (1, 3, 8):
        arrays = batch_of(SIGNATURE, batch, seed=batch)
        np.testing.assert_allclose(answer(arrays)[0], run(model, arrays, SIGNATURE)[0].numpy(), atol=0.05)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_same_calibration_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize_onnx_static(source, tmp_path / name, batches(8, 3))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_every_batch_widens_the_ranges(source: Path, tmp_path: Path) -> None:
    """ONNX Runtime's CalibMaxIntermediateOutputs forgets whole batches: an outlier must count wherever it comes."""

    def scale(*order: int) -> float:
        loud = {"image": 100 * np.ones((2, 1, 8, 8), dtype="float32")}
        calibration = [loud if index == 0 else batch_of(SIGNATURE, 2, seed=index) for index in order]
        quantize_onnx_static(source, tmp_path / "q", calibration)
        return float(
            next(
                numpy_helper.to_array(x) for x in onnx.load(tmp_path / "q").graph.initializer if x.name == "image_scale"
            )
        )

    assert scale(0, 1, 2, 3) == scale(1, 2, 3, 0) > 100 / 256


def test_calibration_is_streamed(source: Path, tmp_path: Path) -> None:
    """No more than the batch in hand and the one before it are alive at once."""
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream() -> Iterator[Arrays]:
        nonlocal most
        for arrays in batches(*[4] * 6):
            alive.append(weakref.ref(arrays["image"]))
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))
            yield arrays

    quantize_onnx_static(source, tmp_path / "q", stream())
    assert len(alive) == 6
    assert most <= 3


def test_empty_or_wrong_calibration_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="calibration data is empty"):
        quantize_onnx_static(source, tmp_path / "q", [])
    with pytest.raises(BadInputError, match="lacks input 'image'; it has picture"):
        quantize_onnx_static(source, tmp_path / "q", [{"picture": np.zeros((1, 1, 8, 8), "float32")}])
    with pytest.raises(RejectedError, match="cannot quantize the model") as caught:
        quantize_onnx_static(source, tmp_path / "q", [{"image": np.zeros((1, 1, 9, 8), "float32")}])
    assert "\n" not in str(caught.value)


class Doubles(nn.Module):
    """No matrix product at all."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (2 * image).flatten(1)[:, :10]


def test_a_model_without_matrix_products_is_unsupported(tmp_path: Path) -> None:
    export_onnx(Doubles(), batch_of(SIGNATURE, 4), SIGNATURE, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="the model has no Conv, MatMul, Gemm"):
        quantize_onnx_static(tmp_path / "m.onnx", tmp_path / "q", batches(2))
