"""What is particular to OpenVINO; the rest is its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.openvino import OpenVinoEngine
from slipway.engines.streams import load_streams
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
    assert OpenVinoEngine().build(source, tmp_path / "out", options())["inference_precision"] == "f32"


def test_the_file_states_its_inference_precision(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights are two candidates, fp32 and bf16, so their bytes must differ and decide."""
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["BF16"])
    for variant, precision in (("fp32", "f32"), ("bf16", "bf16")):
        told = OpenVinoEngine().build(source, tmp_path / variant, options(variant))
        assert told["inference_precision"] == precision
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


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each model that was compiled, whether it was for any batch."""
    noted: list[bool] = []
    compile_model = openvino.Core.compile_model

    def note(core: openvino.Core, model: openvino.Model, *further: Any) -> openvino.CompiledModel:
        noted.append(model.is_dynamic())
        return compile_model(core, model, *further)

    monkeypatch.setattr(openvino.Core, "compile_model", note)
    return noted


def test_the_first_batch_has_a_model_of_its_own(source: Path, tmp_path: Path, compiled: list[bool]) -> None:
    told = OpenVinoEngine().build(source, tmp_path / "out", options().model_copy(update={"batch": (2, 1)}))
    assert told["first_batch"] == 2
    images = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    with OpenVinoEngine().load(tmp_path / "out", RunOptions()) as session:
        two = session.infer({"x": images[:2]})["y"]
        assert compiled == [False]
        three = session.infer({"x": images})["y"]
        one = session.infer({"x": images[:1]})["y"]
    assert compiled == [False, True], "compiled when asked for, once"
    np.testing.assert_allclose(two, three[:2], rtol=1e-5)
    np.testing.assert_allclose(one, three[:1], rtol=1e-5)


def test_a_profile_is_of_the_model_that_answers(source: Path, tmp_path: Path, compiled: list[bool]) -> None:
    OpenVinoEngine().build(source, tmp_path / "out", options())
    arrays = {"x": np.zeros((3, 3, 8, 8), np.float32)}
    profile = OpenVinoEngine().profile(tmp_path / "out", RunOptions(), arrays, 5, tmp_path / "trace.json")
    assert compiled == [False, True]
    assert profile.batch == 3
    assert [layer.time_us is not None for layer in profile.layers if layer.multiplies] == [True]


def test_a_model_of_one_batch_is_compiled_as_it_is(tmp_path: Path, compiled: list[bool]) -> None:
    model = openvino.Core().read_model(save_convolution(tmp_path / "model.onnx"))
    model.reshape([4, 3, 8, 8])
    openvino.save_model(model, tmp_path / "fixed.xml")
    told = OpenVinoEngine().build(tmp_path / "fixed.xml", tmp_path / "out", options())
    assert "first_batch" not in told
    with OpenVinoEngine().load(tmp_path / "out", RunOptions()) as session:
        assert session.infer({"x": np.zeros((4, 3, 8, 8), np.float32)})["y"].shape == (4, 4, 6, 6)
    assert compiled == [False]


def test_streams_share_a_compiled_model(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    compile_model = openvino.Core.compile_model

    def note(core: openvino.Core, model: openvino.Model, device: str, settings: dict[str, Any]) -> Any:
        asked.append((settings["NUM_STREAMS"], settings["INFERENCE_NUM_THREADS"]))
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", note)
    OpenVinoEngine().build(source, tmp_path / "out", options())
    with load_streams(OpenVinoEngine(), tmp_path / "out", RunOptions(threads=2, streams=3)):
        assert asked == [(3, 6)]
