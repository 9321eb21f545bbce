"""Engine ``onnxruntime`` set to a GPU: refused where it is missing; its label and its buffers, tried on the CPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from slipway.engines import check_settings, onnxruntime_gpu
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.onnxruntime import NAME, OnnxRuntimeEngine, OnnxRuntimeGpuSession
from slipway.engines.onnxruntime_gpu import (
    PROPERTY,
    PROVIDERS,
    RECORD_ASSIGNMENT,
    DeviceBuffers,
    GpuLabel,
    left_to_others,
    open_on_gpu,
    read_label,
    write_label,
)
from slipway.errors import BadInputError, UnsupportedError
from tests.unit.engines import nvidia_driver
from tests.unit.engines.onnx_models import save_convolution, signature

CUDA = GpuLabel(provider="cuda", tf32=False)
CPU = ["CPUExecutionProvider"]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_driver.plug_in(monkeypatch, None)


def options(variant: str = "fp32", **settings: object) -> BuildOptions:
    return BuildOptions(variant=variant, signature=signature(), settings=settings)


def images(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((batch, 3, 8, 8)).astype("float32")}


def with_gpu(monkeypatch: pytest.MonkeyPatch, *providers: str) -> None:
    nvidia_driver.plug_in(monkeypatch, nvidia_driver.Driver())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*providers, *CPU])


def test_without_a_gpu_it_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"^engine onnxruntime cannot run here: no NVIDIA GPU: .*provider: cpu"):
        check_settings(NAME, {"provider": "cuda"})
    source = save_convolution(tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="no NVIDIA GPU"):
        OnnxRuntimeEngine().build(source, tmp_path / "out.onnx", options(provider="cuda"))
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("provider", list(PROVIDERS))
def test_a_package_without_the_provider_is_told_with_the_one_that_has_it(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch)
    asked = {"provider": provider, "tf32": True}
    with pytest.raises(UnsupportedError, match=f"and not {PROVIDERS[provider]}; .*pip install onnxruntime-gpu; attach"):
        check_settings(NAME, asked)
    with_gpu(monkeypatch, PROVIDERS[provider])
    check_settings(NAME, asked)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tf32": True}, "setting 'tf32': it is for a GPU: set provider too"),
        ({"provider": "tensorrt"}, "setting 'tf32': .* no option to keep TensorRT from TF32"),
        ({"provider": "gpu"}, "setting 'provider': "),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        check_settings(NAME, settings)


def test_a_file_carries_its_provider_and_runs_on_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = save_convolution(tmp_path / "model.onnx"), tmp_path / "out.onnx"
    with monkeypatch.context() as patched:
        with_gpu(patched, PROVIDERS["cuda"])
        told = OnnxRuntimeEngine().build(source, out, options(provider="cuda", tf32=True))
    assert told == {"graph_optimization": "basic", "provider": "cuda", "tf32": True}
    assert read_label(NAME, out) == GpuLabel(provider="cuda", tf32=True)
    properties = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert GpuLabel.model_validate_json(properties[PROPERTY]).tf32
    assert onnxruntime.InferenceSession(out, providers=CPU).get_modelmeta().custom_metadata_map == properties
    for use in (
        lambda: OnnxRuntimeEngine().load(out, RunOptions()),
        lambda: OnnxRuntimeEngine().profile(out, RunOptions(), images(1), 1, tmp_path / "trace.json"),
    ):
        with pytest.raises(UnsupportedError):
            use()


def test_a_file_for_the_cpu_carries_no_label_and_keeps_its_bytes(tmp_path: Path) -> None:
    source = save_convolution(tmp_path / "model.onnx")
    for name, settings in (("plain", {}), ("spelled", {"provider": "cpu", "tf32": False})):
        told = OnnxRuntimeEngine().build(source, tmp_path / name, options(**settings))
        assert told == {"graph_optimization": "extended"}
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "spelled").read_bytes()
    assert read_label(NAME, tmp_path / "plain") is None


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\xff" * 40, b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\x7f"])
def test_what_is_no_onnx_file_has_no_label(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_label(NAME, tmp_path / "file") is None
    assert read_label(NAME, tmp_path / "missing") is None


def test_a_damaged_label_is_refused_and_not_taken_for_none(tmp_path: Path) -> None:
    path = save_convolution(tmp_path / "model.onnx")
    write_label(path, CUDA)
    path.write_bytes(path.read_bytes().replace(b'"cuda"', b'"cude"'))
    with pytest.raises(BadInputError, match=r"^engine onnxruntime wants an ONNX model whose label"):
        OnnxRuntimeEngine().load(path, RunOptions())


def test_other_variants_than_fp32_are_refused_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, PROVIDERS["cuda"])
    with pytest.raises(UnsupportedError, match="cannot execute int8-static: on a GPU it is given fp32 alone"):
        OnnxRuntimeEngine().build(tmp_path / "none", tmp_path / "out", options("int8-static", provider="cuda"))


def test_a_provider_that_is_not_active_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime goes on without one whose libraries it cannot load."""
    source = save_convolution(tmp_path / "model.onnx")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(UnsupportedError, match=r"CUDAExecutionProvider was asked for, and CPU.* is active"),
    ):
        open_on_gpu(NAME, source, onnxruntime.SessionOptions(), CUDA)


def test_a_provider_that_does_not_start_is_refused_without_a_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA failure 100")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(UnsupportedError, match="CUDAExecutionProvider does not start: CUDA failure 100; attach"):
        open_on_gpu(NAME, save_convolution(tmp_path / "model.onnx"), onnxruntime.SessionOptions(), CUDA)
    assert capfd.readouterr().out == ""


def test_an_operator_that_multiplies_elsewhere_is_found(tmp_path: Path) -> None:
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    session = onnxruntime.InferenceSession(save_convolution(tmp_path / "model.onnx"), settings, providers=CPU)
    assert left_to_others(session, PROVIDERS["cuda"]) == ["Conv to CPUExecutionProvider"]
    assert left_to_others(session, CPU[0]) == []


def test_a_session_with_such_an_operator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = SimpleNamespace(op_type="Conv")
    session = SimpleNamespace(
        get_providers=lambda: [PROVIDERS["cuda"], *CPU],
        get_provider_graph_assignment_info=lambda: [SimpleNamespace(ep_name=CPU[0], get_nodes=lambda: [node])],
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    with pytest.raises(UnsupportedError, match="on CUDAExecutionProvider: it leaves Conv to CPUExecutionProvider"):
        open_on_gpu(NAME, tmp_path / "model.onnx", onnxruntime.SessionOptions(), CUDA)


@pytest.mark.parametrize(
    ("label", "given"),
    [
        (CUDA, {"device_id": "0", "use_tf32": "0"}),
        (GpuLabel(provider="cuda", tf32=True), {"device_id": "0", "use_tf32": "1"}),
        (GpuLabel(provider="tensorrt", tf32=True), {"device_id": "0"}),
    ],
)
def test_the_provider_gets_its_options(label: GpuLabel, given: dict[str, str]) -> None:
    assert label.options() == given


def test_buffers_are_reused_and_answers_are_the_callers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_convolution(tmp_path / "model.onnx")
    plain = onnxruntime.InferenceSession(path, providers=CPU)
    made = _counted(monkeypatch)
    monkeypatch.setattr("slipway.engines.onnxruntime.DeviceBuffers", lambda *given: DeviceBuffers(*given, device="cpu"))
    with OnnxRuntimeGpuSession(path, plain) as session:
        first = session.infer(images(2, seed=1))["y"]
        kept = first.copy()
        for batch, seed in ((2, 2), (2, 3), (5, 4), (5, 5), (2, 6)):
            given = images(batch, seed)
            given["x"].flags.writeable = False
            np.testing.assert_array_equal(session.infer(given)["y"], plain.run(None, given)[0])
        np.testing.assert_array_equal(first, kept)
    assert made == [2, 5, 2]


def test_callers_at_once_have_buffers_of_their_own(tmp_path: Path) -> None:
    path = save_convolution(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=CPU)
    buffers, together = DeviceBuffers(session, ["y"], device="cpu"), threading.Barrier(4)

    def ask(seed: int) -> bool:
        given = images(1 + seed % 3, seed)
        together.wait(timeout=30)
        answers = [buffers.infer(given)["y"] for _ in range(20)]
        expected = session.run(None, given)[0]
        return all(np.array_equal(answer, expected) for answer in answers)

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(ask, range(4)))
    assert len(buffers._free) <= 4


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch of every buffer that is made."""
    made: list[int] = []
    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    def note(shape: list[int], *given: object) -> onnxruntime.OrtValue:
        made.append(shape[0])
        return make(shape, *given)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", note)
    return made


def test_either_package_brings_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.engines import checks

    def version(distribution: str) -> str:
        if distribution == "onnxruntime-gpu":
            return "1.31.0"
        raise checks.importlib.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(checks.importlib.metadata, "version", version)
    assert OnnxRuntimeEngine().availability().version == "1.31.0"
    assert onnxruntime_gpu.INSTEAD == "provider: cpu"
