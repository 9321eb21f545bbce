"""What NVIDIA's builders are told, by the one of TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx

from slipway.engines.base import BuildOptions
from slipway.engines.tensorrt_build import build_plan
from slipway.engines.tensorrt_shapes import ShapeSettings
from slipway.errors import UnsupportedError
from slipway.records import Option
from tests.unit.engines.onnx_models import save_convolution, signature

OPTIONS = BuildOptions(variant="fp32", signature=signature(), batch=(2, 8))


@pytest.mark.parametrize("tf32", [False, True])
def test_fp32_is_computed_in_fp32_unless_tf32_is_set(tmp_path: Path, tf32: bool) -> None:
    """NVIDIA's builders round the factors of fp32 products to 10 bits if nobody says otherwise."""
    seen: list[Any] = []

    def configure(builder: Any, config: Any) -> dict[str, Option]:
        seen.append(config.get_flag(tensorrt_rtx.BuilderFlag.TF32))
        seen.append((config.profiling_verbosity, config.num_optimization_profiles))
        return {"asked": "more", **_for_ada(builder, config)}

    source = save_convolution(tmp_path / "model.onnx")
    plan, told = build_plan("tensorrt", tensorrt_rtx, source, OPTIONS, ShapeSettings(tf32=tf32), configure)
    assert seen == [tf32, (tensorrt_rtx.ProfilingVerbosity.DETAILED, 1)]
    assert told == {"shapes.x": "1x3x8x8 / 2x3x8x8 / 8x3x8x8", "tf32": tf32, "asked": "more"}
    assert bytes(plan)


def test_plan_that_the_builder_does_not_make_is_refused_with_its_reason(tmp_path: Path) -> None:
    """No compute capability is named, and this host has no GPU to take it from."""

    def configure(builder: Any, config: Any) -> dict[str, Option]:
        config.num_compute_capabilities = 1
        config.set_compute_capability(tensorrt_rtx.ComputeCapability.NONE, 0)
        return {}

    source = save_convolution(tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match=r"^engine tensorrt cannot build this model: [^\n]{20,}$") as caught:
        build_plan("tensorrt", tensorrt_rtx, source, OPTIONS, ShapeSettings(), configure)
    assert "does not say why" not in str(caught.value)


def _for_ada(builder: Any, config: Any) -> dict[str, Option]:
    config.num_compute_capabilities = 1
    config.set_compute_capability(tensorrt_rtx.ComputeCapability.SM89, 0)
    return {}
