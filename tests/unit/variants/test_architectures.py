"""Each variant of each architecture answers nearly as fp32, or is refused with a reason that names the operator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.config import CalibrationParams
from slipway.errors import UnsupportedError
from slipway.exports.calling import run
from slipway.exports.program import capture
from slipway.variants.fp16_onnx import reduce_onnx
from slipway.variants.int8_dynamic import quantize_linears, quantize_onnx_dynamic
from slipway.variants.int8_mixed import quantize_onnx_mixed
from slipway.variants.int8_static import quantize_onnx_static
from slipway.variants.reduced_float import to_reduced
from tests.unit.exports.test_exports import load_onnx
from tests.unit.variants.conftest import OnnxOf
from tests.unit.variants.models import (
    SIGNATURES,
    BiLstm,
    Depthwise,
    OnlyGru,
    Transformer,
    Upsampling,
    batch_of,
    made,
    relative_error,
    stream,
)

KINDS = (Depthwise, Transformer, BiLstm, OnlyGru, Upsampling)
PARAMS = CalibrationParams()
ONNX: dict[str, tuple[Callable[[type[nn.Module], Path, Path], object], float]] = {
    "fp16": (lambda kind, source, out: reduce_onnx(source, out, batch_of(kind, 8)), 2e-3),
    "int8-dynamic": (lambda kind, source, out: quantize_onnx_dynamic(source, out), 3e-2),
    "int8-static": (
        lambda kind, source, out: quantize_onnx_static(source, out, stream(kind, 64, 64, 64), PARAMS),
        5e-2,
    ),
    "int8-mixed": (lambda kind, source, out: quantize_onnx_mixed(source, out, stream(kind, 64, 64, 64), PARAMS), 5e-2),
}
MODULES: dict[str, tuple[Callable[[type[nn.Module], nn.Module], nn.Module], float]] = {
    "bf16": (lambda kind, module: to_reduced(module, batch_of(kind, 2), SIGNATURES[kind], "bf16"), 2e-2),
    "fp16": (lambda kind, module: to_reduced(module, batch_of(kind, 2), SIGNATURES[kind], "fp16"), 2e-3),
    "int8-dynamic": (lambda kind, module: quantize_linears(module), 3e-2),
}
REFUSED = {
    ("int8-dynamic", OnlyGru): "(?i)in fp32 stay 1 gru",
    ("int8-static", OnlyGru): "its GRU would stay as they are",
    ("int8-mixed", OnlyGru): "its GRU would stay as they are",
    ("int8-dynamic", Upsampling): "(?i)in fp32 stay 1 conv.*, 1 conv_?transpose",
}


def expected(kind: type[nn.Module]) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    arrays = batch_of(kind, 16, seed=9)
    return arrays, [one.numpy() for one in run(made(kind), arrays, SIGNATURES[kind])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ONNX)
def test_in_onnx(variant: str, kind: type[nn.Module], onnx_of: OnnxOf, tmp_path: Path) -> None:
    make, tolerance = ONNX[variant]
    if (variant, kind) in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[variant, kind]):
            make(kind, onnx_of(kind), tmp_path / "m.onnx")
        return
    make(kind, onnx_of(kind), tmp_path / "m.onnx")
    arrays, wanted = expected(kind)
    for found, answer in zip(load_onnx(tmp_path / "m.onnx", SIGNATURES[kind])(arrays), wanted, strict=True):
        assert (found.dtype, found.shape) == (answer.dtype, answer.shape)
        assert 0 < relative_error(found, answer) < tolerance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", MODULES)
def test_in_pytorch(variant: str, kind: type[nn.Module]) -> None:
    make, tolerance = MODULES[variant]
    program = capture(made(kind), batch_of(kind, 2), SIGNATURES[kind]).module()
    if (variant, kind) in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[variant, kind]):
            make(kind, program)
        return
    arrays, wanted = expected(kind)
    for found, answer in zip(run(make(kind, program), arrays, SIGNATURES[kind]), wanted, strict=True):
        assert found.dtype == torch.float32
        assert 0 < relative_error(found.numpy(), answer) < tolerance
