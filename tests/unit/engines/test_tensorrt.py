"""The engine ``tensorrt`` as far as it goes without a GPU: what is missing, what is set, and the timing cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from slipway.engines import engine, tensorrt
from slipway.engines.nvidia_gpu import Gpu
from slipway.engines.tensorrt import TensorRtEngine, TensorRtSettings, _configure
from slipway.engines.tensorrt_cache import TimingCache
from slipway.errors import BadInputError, UnsupportedError
from tests.unit.engines.nvidia_driver import Driver, plug_in

GPU = Gpu(name="NVIDIA H200 NVL", capability="9.0")
NO_DRIVER = "no NVIDIA GPU: its driver's library libcuda.so.1 is not found on this host"


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without any of it."""
    monkeypatch.setattr(importlib.metadata, "version", _version_of({}))
    monkeypatch.setattr(tensorrt.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(tensorrt.ctypes.util, "find_library", lambda name: None)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    plug_in(monkeypatch, None)


@pytest.mark.usefixtures("nothing")
def test_everything_that_is_missing_is_named() -> None:
    found = TensorRtEngine().availability()
    assert (found.available, found.version, found.extra) == (False, None, "tensorrt")
    assert found.reason == f"tensorrt_cu13 is not installed, which brings libnvinfer.so; {NO_DRIVER}"
    with pytest.raises(UnsupportedError, match=r"pip install 'slipway\[tensorrt\]'$"):
        engine("tensorrt")


@pytest.mark.usefixtures("nothing")
def test_bindings_without_the_library_that_they_bind_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", _version_of({"tensorrt_cu12": "10.14.1"}))
    plug_in(monkeypatch, Driver())
    found = TensorRtEngine().availability()
    assert not found.available
    assert found.reason == "TensorRT's Python package 10.14.1 is here, but its library libnvinfer.so.10 is not"


@pytest.mark.usefixtures("nothing")
@pytest.mark.parametrize("where", ["wheel", "variable", "system"])
def test_with_library_and_gpu_it_is_available(monkeypatch: pytest.MonkeyPatch, where: str, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.metadata, "version", _version_of({"tensorrt_cu13": "11.4.0"}))
    plug_in(monkeypatch, Driver((9, 0)))
    (tmp_path / "libnvinfer.so.11").touch()
    if where == "wheel":
        spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setattr(tensorrt.importlib.util, "find_spec", lambda name: spec)
    elif where == "variable":
        monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    else:
        monkeypatch.setattr(tensorrt.ctypes.util, "find_library", lambda name: f"lib{name}.so.11")
    found = TensorRtEngine().availability()
    assert (found.available, found.runs, found.version, found.reason) == (True, True, "11.4.0", None)


@pytest.mark.usefixtures("nothing")
def test_library_without_a_gpu_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """It times kernels while it builds."""
    monkeypatch.setattr(importlib.metadata, "version", _version_of({"tensorrt": "10.3.0"}))
    monkeypatch.setattr(tensorrt.ctypes.util, "find_library", lambda name: f"lib{name}.so.10")
    found = TensorRtEngine().availability()
    assert (found.available, found.reason) == (False, NO_DRIVER)


def test_settings_reach_the_builders_configuration() -> None:
    config = _Config()
    settings = TensorRtSettings(dla_core=1, gpu_fallback=True, version_compatible=True, optimization_level=5)
    told = _configure(_RUNTIME, SimpleNamespace(num_DLA_cores=2), config, settings)
    assert (config.default_device_type, config.DLA_core, config.builder_optimization_level) == ("DLA", 1, 5)
    assert config.flags == {"VERSION_COMPATIBLE", "GPU_FALLBACK"}
    assert told == {"optimization_level": 5, "version_compatible": True, "dla_core": 1, "gpu_fallback": True}


def test_without_settings_nothing_is_asked_of_the_builder() -> None:
    config = _Config()
    assert _configure(_RUNTIME, SimpleNamespace(num_DLA_cores=0), config, TensorRtSettings()) == {
        "optimization_level": 3
    }
    assert (config.flags, config.default_device_type) == (set(), None)


def test_dla_core_that_is_not_here_is_refused() -> None:
    builder = SimpleNamespace(num_DLA_cores=0)
    with pytest.raises(UnsupportedError, match="dla_core 0 was asked for, this host has 0 cores"):
        _configure(_RUNTIME, builder, _Config(), TensorRtSettings(dla_core=0))


def test_fallback_from_no_accelerator_is_refused() -> None:
    with pytest.raises(BadInputError, match="gpu_fallback is for what a DLA cannot run; set dla_core too"):
        _configure(_RUNTIME, SimpleNamespace(num_DLA_cores=2), _Config(), TensorRtSettings(gpu_fallback=True))


@pytest.mark.parametrize("wrong", [{"dla_core": -1}, {"optimization_level": 6}, {"max_batch": 0}, {"fp16": True}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TensorRtSettings.model_validate(wrong)


def test_timing_cache_is_kept_per_version_and_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = TimingCache(None, "11.4", GPU)
    config = _Config()
    first.attach(config)
    assert config.times == b""
    config.times = b"conv 3 us"
    digest = first.save()
    assert digest == hashlib.sha256(b"conv 3 us").hexdigest()
    again = _Config()
    TimingCache(None, "11.4", GPU).attach(again)
    assert again.times == b"conv 3 us"
    paths = {TimingCache(None, version, gpu).path for version in ("11.4", "11.5") for gpu in (GPU, _another_gpu())}
    assert len(paths) == 4
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["11.4-NVIDIA-H200-NVL-9.0.cache"]


def test_timing_cache_of_another_gpu_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "given.cache"
    path.write_bytes(b"another GPU's")
    with pytest.raises(BadInputError, match=r"given\.cache is of another TensorRT or GPU; remove it, or name another$"):
        TimingCache(path, "11.4", GPU).attach(_Config(accepts=False))


_RUNTIME = SimpleNamespace(
    BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE="VERSION_COMPATIBLE", GPU_FALLBACK="GPU_FALLBACK"),
    DeviceType=SimpleNamespace(DLA="DLA"),
)


class _Config:
    """A builder's configuration as far as it is set, and the cache of times in it."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.flags: set[str] = set()
        self.default_device_type: str | None = None
        self.DLA_core = -1
        self.builder_optimization_level = -1
        self.times = b"none yet"
        self._accepts = accepts

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def create_timing_cache(self, content: bytes) -> Any:
        self.times = content
        return SimpleNamespace(serialize=lambda: self.times)

    def set_timing_cache(self, cache: Any, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return self._accepts


def _another_gpu() -> Gpu:
    return Gpu(name="NVIDIA L4", capability="8.9")


def _version_of(installed: dict[str, str]) -> Any:
    def version(distribution: str) -> str:
        if distribution not in installed:
            raise importlib.metadata.PackageNotFoundError(distribution)
        return installed[distribution]

    return version
