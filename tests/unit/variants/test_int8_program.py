"""Static quantization of a PyTorch program: it answers nearly as fp32 does, and its notes say what was made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.config import CalibrationParams
from slipway.errors import BadInputError, RejectedError, UnsupportedError
from slipway.exports.calling import run
from slipway.exports.program import capture, export_program
from slipway.variants.inner_values import Batches
from slipway.variants.int8_program import quantize_program_static
from slipway.variants.ranges import Method
from tests.unit.variants.models import SIGNATURES, OnlyGru, Residual, batch_of, made, relative_error, stream

needs_the_quantizer = pytest.mark.integration  # importing torchao and executorch takes seconds


def quantized(
    kind: type[nn.Module], batches: Batches, method: Method = "minmax"
) -> tuple[torch.fx.GraphModule, tuple[str, ...]]:
    module = capture(made(kind), batch_of(kind, 2), SIGNATURES[kind]).module()
    return quantize_program_static(module, SIGNATURES[kind], batches, CalibrationParams(ranges=method))


def error(module: nn.Module) -> float:
    """Of a residual net's answers, relative to the largest."""
    signature, arrays = SIGNATURES[Residual], batch_of(Residual, 8, seed=8)
    return relative_error(run(module, arrays, signature)[0].numpy(), run(made(Residual), arrays, signature)[0].numpy())


def test_a_scripted_model_has_no_program() -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        scripted = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(
        UnsupportedError, match=r"^int8-static of PyTorch is made from an exported program, not from Rec"
    ):
        quantize_program_static(scripted, SIGNATURES[Residual], list, CalibrationParams())


@needs_the_quantizer
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_by_every_kind_of_range_answers_stay_near(method: Method, capfd: pytest.CaptureFixture[str]) -> None:
    module, notes = quantized(Residual, stream(Residual, 64, 64, 5), method)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert notes[:2] == ("3 of 3 conv2d in int8", "1 of 1 linear in int8")
    assert notes[2].startswith(f"calibrated on 120 examples, ranges by {method}")
    assert 0 < error(module) < 0.05


@needs_the_quantizer
def test_answers_are_not_cut_to_what_calibration_has_seen() -> None:
    """Planted: calibrated on black images, whose answers are all alike."""
    black = np.zeros_like(batch_of(Residual, 20)["image"])
    module, _ = quantized(Residual, lambda: [{"image": black}])
    assert len(np.unique(run(module, batch_of(Residual, 8), SIGNATURES[Residual])[0].numpy().round(6))) > 10


@needs_the_quantizer
def test_weights_are_int8_alone_and_per_output_channel() -> None:
    module, _ = quantized(Residual, stream(Residual, 16))
    weights = [tensor for tensor in module.buffers() if tensor.dtype == torch.int8]
    assert sorted(tuple(weight.shape) for weight in weights) == [(8, 3, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (10, 8)]
    assert all(tensor.ndim < 2 for tensor in module.state_dict().values() if tensor.is_floating_point())
    assert all((weight.abs().amax(tuple(range(1, weight.ndim))) == 127).all() for weight in weights)


@needs_the_quantizer
def test_the_same_calibration_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        module, _ = quantized(Residual, stream(Residual, 8, 3))
        export_program(module, batch_of(Residual, 2), SIGNATURES[Residual], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@needs_the_quantizer
def test_too_narrow_a_calibration_is_warned_of() -> None:
    """Planted: every tenth image is four times as bright as those the ranges come from."""
    images = batch_of(Residual, 60)["image"]
    images[9::10] *= 4
    _, notes = quantized(Residual, lambda: [{"image": images}])
    assert notes[-1] == "calibration is inadequate (values lay beyond their range): calibrate on more examples"


@needs_the_quantizer
def test_ranges_that_still_move_are_warned_of() -> None:
    """Planted: the last images are four times as bright."""
    images = batch_of(Residual, 60)["image"]
    images[54:] *= 4
    _, notes = quantized(Residual, lambda: [{"image": images}])
    assert "ranges still moved" in notes[-1]


@needs_the_quantizer
def test_a_model_without_a_layer_to_quantize_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"^int8: the model has no conv1d, .*; its gru would stay as they are$"):
        quantized(OnlyGru, stream(OnlyGru, 16))


@needs_the_quantizer
def test_calibration_without_examples_or_without_an_input_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"^int8: the calibration data is empty; set data\.calibration$"):
        quantized(Residual, list)
    with pytest.raises(BadInputError, match=r"^the examples lack input 'image'; they have picture$"):
        quantized(Residual, lambda: [{"picture": batch_of(Residual, 4)["image"]}])


@needs_the_quantizer
def test_a_value_that_is_no_number_has_no_range() -> None:
    images = batch_of(Residual, 4)["image"]
    images[2, 0, 0, 0] = np.nan
    with pytest.raises(RejectedError, match=r"^int8: .* NaN or infinity on calibration data"):
        quantized(Residual, lambda: [{"image": images}])
