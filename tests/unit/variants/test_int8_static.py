"""Static quantization: the file answers nearly as fp32 does, and its notes say what was made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.config import CalibrationParams
from slipway.errors import UnsupportedError
from slipway.examples.digits import load_splits
from slipway.examples.training import Schedule, train_classifier
from slipway.exports.calling import run
from slipway.exports.onnx import export_onnx
from slipway.exports.program import capture
from slipway.records import Signature
from slipway.variants.int8_static import quantize_onnx_static
from slipway.variants.ranges import Method
from tests.unit.exports.test_exports import load_onnx
from tests.unit.variants.conftest import OnnxOf
from tests.unit.variants.models import SIGNATURES, Residual, batch_of, made, relative_error, spec, stream

FEW = Schedule(epochs=4, batch_size=32, peak_learning_rate=0.1)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_by_every_kind_of_range_answers_stay_near(
    method: Method, onnx_of: OnnxOf, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q.onnx"
    notes = quantize_onnx_static(onnx_of(Residual), out, stream(Residual, 64, 64, 5), CalibrationParams(ranges=method))
    assert notes[:2] == ("3 of 3 Conv in int8", "1 of 1 Gemm in int8")
    assert notes[2].startswith(f"calibrated on 120 examples, ranges by {method}")
    answer = load_onnx(out, SIGNATURES[Residual])
    for batch in (1, 3, 8):
        arrays = batch_of(Residual, batch, seed=batch)
        expected = run(made(Residual), arrays, SIGNATURES[Residual])[0].numpy()
        assert relative_error(answer(arrays)[0], expected) < 0.05
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_entropy_costs_a_trained_net_little_more_than_minmax(tmp_path: Path) -> None:
    """Digits, drawn on an even background; without a bound on the cut, the error was five times as large."""
    splits = load_splits()
    signature = Signature(inputs=(spec("image", 1, 32, 32),), outputs=(spec("logits", 10),))
    net = train_classifier(small_net, descent, splits["train"], FEW, lambda *_: None)
    images = {"image": splits["calibration"].inputs}
    export_onnx(capture(net, images, signature).module(), images, signature, tmp_path / "m.onnx")
    arrays = {"image": splits["test"].inputs[:200]}
    expected = load_onnx(tmp_path / "m.onnx", signature)(arrays)[0]

    def error(method: Method) -> float:
        quantize_onnx_static(tmp_path / "m.onnx", tmp_path / "q", lambda: [images], CalibrationParams(ranges=method))
        return relative_error(load_onnx(tmp_path / "q", signature)(arrays)[0], expected)

    assert error("entropy") < 2 * error("minmax")


def small_net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)),
    )


def descent(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)


def test_the_same_calibration_gives_the_same_bytes(onnx_of: OnnxOf, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize_onnx_static(onnx_of(Residual), tmp_path / name, stream(Residual, 8, 3), CalibrationParams())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_too_narrow_a_calibration_is_warned_of(onnx_of: OnnxOf, tmp_path: Path) -> None:
    """Planted: every tenth image is four times as bright as those the ranges come from."""

    def brighter() -> list[dict[str, np.ndarray]]:
        images = batch_of(Residual, 60)["image"]
        images[9::10] *= 4
        return [{"image": images}]

    notes = quantize_onnx_static(onnx_of(Residual), tmp_path / "q.onnx", brighter, CalibrationParams())
    assert notes[-1] == "calibration is inadequate (values lay beyond their range): calibrate on more examples"


class Doubles(nn.Module):
    """No matrix product at all."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (2 * image).flatten(1)[:, :10]


def test_a_model_without_matrix_products_is_unsupported(tmp_path: Path) -> None:
    export_onnx(Doubles(), batch_of(Residual, 2), SIGNATURES[Residual], tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="the model has no Conv, ConvTranspose, MatMul, Gemm"):
        quantize_onnx_static(tmp_path / "m.onnx", tmp_path / "q", stream(Residual, 2), CalibrationParams())
