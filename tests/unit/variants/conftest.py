"""Each tiny model is exported once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from slipway.exports.onnx import export_onnx
from slipway.exports.program import capture
from tests.unit.variants.models import SIGNATURES, batch_of, made

OnnxOf = Callable[[type[nn.Module]], Path]


@pytest.fixture(scope="session")
def onnx_of(tmp_path_factory: pytest.TempPathFactory) -> OnnxOf:
    """The fp32 ONNX file of a kind of model."""
    folder = tmp_path_factory.mktemp("onnx")

    @functools.cache
    def exported(kind: type[nn.Module]) -> Path:
        path, example = folder / f"{kind.__name__}.onnx", batch_of(kind, 2)
        export_onnx(capture(made(kind), example, SIGNATURES[kind]).module(), example, SIGNATURES[kind], path)
        return path

    return exported
