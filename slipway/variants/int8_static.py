"""The int8-static variant: ONNX with quantize and dequantize nodes, activation ranges taken from calibration data."""

from __future__ import annotations

from pathlib import Path

from slipway.config import CalibrationParams
from slipway.variants.calibration import adequacy, calibrate
from slipway.variants.inner_values import Batches
from slipway.variants.qdq import activations, layers, prepared, quantized, representable, selected, told


def quantize_onnx_static(source: Path, out: Path, batches: Batches, params: CalibrationParams) -> tuple[str, ...]:
    """Write an fp32 ONNX file's int8-static form and return what was quantized, and how well calibrated, in words.

    ``batches`` gives the calibration examples, the same each time it is called; every tenth is held back to check the
    ranges on. One batch is in memory at a time; batches may differ in size.

    Raises:
        UnsupportedError: the model has no convolution or matrix product with constant weights.
        BadInputError: the calibration data is empty, or lacks an input.
        RejectedError: ONNX Runtime cannot quantize the model, or does not run it on the calibration data.
    """
    model = prepared(source)
    in_int8 = {node.name for node in layers(model)}
    calibrated = calibrate(model, activations(model, selected(model, in_int8)), batches, params)
    made = quantized(model, in_int8, calibrated.ranges)
    out.write_bytes(made.SerializeToString(deterministic=True))
    return (*told(made), *adequacy(model, representable(made), calibrated, batches))
