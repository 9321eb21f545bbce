"""What is particular to OpenVINO; the rest is its contract."""

from __future__ import annotations

from pathlib import Path

import openvino
import pytest

from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.openvino import OpenVinoEngine
from slipway.errors import BadInputError, UnsupportedError
from tests.unit.engines.onnx_models import save_convolution, signature


def options(variant: str = "fp32", output: str = "y") -> BuildOptions:
    return BuildOptions(variant=variant, signature=signature(output=output))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_convolution(tmp_path / "model.onnx")


def test_bf16_is_refused_on_a_cpu_without_it(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(UnsupportedError, match="cannot execute bf16: this CPU has no bfloat16 instructions"):
        OpenVinoEngine().build(source, tmp_path / "out", options("bf16"))
    assert OpenVinoEngine().build(source, tmp_path / "out", options()) == {"inference_precision": "f32"}


def test_the_file_states_its_inference_precision(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights are two candidates, fp32 and bf16, so their bytes must differ and decide."""
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["BF16"])
    for variant, precision in (("fp32", "f32"), ("bf16", "bf16")):
        assert OpenVinoEngine().build(source, tmp_path / variant, options(variant)) == {
            "inference_precision": precision
        }
        model = openvino.Core().read_model(tmp_path / variant / "model.xml")
        assert model.get_rt_info(["slipway", "inference_precision"]).value == precision


def test_ir_that_no_engine_built_is_refused(source: Path, tmp_path: Path) -> None:
    openvino.save_model(openvino.Core().read_model(source), tmp_path / "out" / "model.xml")
    with pytest.raises(BadInputError, match="wants an OpenVINO IR that states its inference precision"):
        OpenVinoEngine().load(tmp_path / "out", RunOptions())


def test_other_names_than_the_signatures_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"signature has outputs logits, model\.onnx has y"):
        OpenVinoEngine().build(source, tmp_path / "out", options(output="logits"))


def test_unknown_operator_is_unsupported(tmp_path: Path) -> None:
    source = save_convolution(tmp_path / "unknown.onnx", operator="Frobnicate")
    with pytest.raises(UnsupportedError, match=r"cannot execute this model: .*Frobnicate") as caught:
        OpenVinoEngine().build(source, tmp_path / "out", options())
    assert "\n" not in str(caught.value)
