"""What is particular to ONNX Runtime; the rest is its contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.onnxruntime import OnnxRuntimeEngine
from slipway.engines.onnxruntime_profile import MOST_CALLS
from slipway.engines.streams import load_streams
from slipway.errors import BadInputError, UnsupportedError
from tests.unit.engines.onnx_models import save_convolution, save_products, signature

FP32 = BuildOptions(variant="fp32", signature=signature())


def test_the_cpu_provider_has_no_bfloat16_convolution(tmp_path: Path) -> None:
    """The reason for which the engine refuses bf16; when this fails, bf16 can be offered."""
    source = save_convolution(tmp_path / "bf16.onnx", TensorProto.BFLOAT16)
    with pytest.raises(UnsupportedError, match=r"NOT_IMPLEMENTED.* Conv"):
        OnnxRuntimeEngine().build(source, tmp_path / "out.onnx", FP32)


def test_unknown_operator_is_unsupported(tmp_path: Path) -> None:
    source = save_convolution(tmp_path / "unknown.onnx", operator="Frobnicate")
    with pytest.raises(UnsupportedError, match=r"cannot execute this model: .*Frobnicate") as caught:
        OnnxRuntimeEngine().build(source, tmp_path / "out.onnx", FP32)
    assert "\n" not in str(caught.value)


def test_other_names_than_the_signatures_are_refused(tmp_path: Path) -> None:
    source = save_convolution(tmp_path / "model.onnx")
    options = BuildOptions(variant="fp32", signature=signature(output="logits"))
    with pytest.raises(BadInputError, match=r"signature has outputs logits, model\.onnx has y"):
        OnnxRuntimeEngine().build(source, tmp_path / "out.onnx", options)


def test_built_file_answers_as_the_source_with_all_optimizations(tmp_path: Path) -> None:
    source, out = save_convolution(tmp_path / "model.onnx"), tmp_path / "out.onnx"
    OnnxRuntimeEngine().build(source, out, FP32)
    arrays = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")}
    unsaved = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    with OnnxRuntimeEngine().load(out, RunOptions()) as session:
        np.testing.assert_array_equal(session.infer(arrays)["y"], unsaved.run(None, arrays)[0])
        assert session.executed_precision() == {"fp32": 1}


def test_running_on_another_provider_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["AzureExecutionProvider"])
    with pytest.raises(UnsupportedError, match=r"asked for CPUExecutionProvider, got \['AzureExecutionProvider'\]"):
        OnnxRuntimeEngine().load(save_convolution(tmp_path / "model.onnx"), RunOptions())


@pytest.mark.parametrize(
    ("sign", "products"),
    [
        (1, {"with weights": "MatMul", "first": "MatMul of activations", "second": "MatMul of activations"}),
        (-1, {"with weights": "MatMul"}),
    ],
)
def test_profile_tells_the_branch_that_ran_and_which_products_have_weights(
    sign: int, products: dict[str, str], tmp_path: Path
) -> None:
    """The time of an If is that of the operators inside it, which would else count twice."""
    path = save_products(tmp_path / "model.onnx")
    arrays = {"x": np.full((2, 2), sign, "float32")}
    found = OnnxRuntimeEngine().profile(path, RunOptions(), arrays, 3, tmp_path / "trace.json")
    assert {layer.name: layer.kind for layer in found.layers if layer.multiplies} == products
    assert "If" not in {layer.kind for layer in found.layers}
    with OnnxRuntimeEngine().load(path, RunOptions()) as session:
        assert session.executed_precision() == {"fp32": 3}, "the file holds both branches"


def test_calls_are_bounded(tmp_path: Path) -> None:
    path = save_convolution(tmp_path / "model.onnx")
    arrays = {"x": np.zeros((1, 3, 8, 8), "float32")}
    found = OnnxRuntimeEngine().profile(path, RunOptions(), arrays, 100_000, tmp_path / "trace.json")
    assert (found.calls, found.tool) == (MOST_CALLS, "onnxruntime profiler")


@pytest.mark.parametrize(("threads", "streams", "pool"), [(1, 1, 1), (1, 3, 1), (2, 1, 2), (2, 3, 4)])
def test_streams_share_a_session_and_its_threads(
    threads: int, streams: int, pool: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime counts the caller as one thread of the pool; callers at once need no more than their own."""
    opened: list[int] = []
    open_session = onnxruntime.InferenceSession

    def note(path: Path, settings: onnxruntime.SessionOptions, **further: list[str]) -> onnxruntime.InferenceSession:
        opened.append(settings.intra_op_num_threads)
        return open_session(path, settings, **further)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    source = save_convolution(tmp_path / "model.onnx")
    with load_streams(OnnxRuntimeEngine(), source, RunOptions(threads=threads, streams=streams)):
        assert opened == [pool]
