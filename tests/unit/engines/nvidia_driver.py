"""A stand-in for libcuda.so.1, with the functions that a GPU is asked by."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from slipway.engines import nvidia_gpu


class Driver:
    """Counts ``count`` GPUs, all called ``name``; ``status`` is what it answers to being started."""

    def __init__(self, capability: tuple[int, int] = (8, 9), count: int = 1, status: int = 0) -> None:
        self._attributes = dict(zip((nvidia_gpu.MAJOR, nvidia_gpu.MINOR), capability, strict=True))
        self._count = count
        self._status = status

    def cuInit(self, flags: int) -> int:  # noqa: N802  # CUDA's name
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self._count
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = b"NVIDIA Test"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = self._attributes[attribute]
        return 0


def plug_in(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> None:
    """Let this host have ``driver``, or none."""
    load_library = ctypes.CDLL

    def load(name: str, *options: Any, **further: Any) -> Any:
        if name != nvidia_gpu.DRIVER:
            return load_library(name, *options, **further)
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(nvidia_gpu.ctypes, "CDLL", load)
