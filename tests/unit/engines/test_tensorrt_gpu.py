"""How the GPU of a host is found, told by a driver that stands in for libcuda.so.1."""

from __future__ import annotations

import pytest

from slipway.engines.nvidia_gpu import Gpu, first_gpu
from slipway.errors import UnsupportedError
from tests.unit.engines.nvidia_driver import Driver, plug_in


def test_gpu_is_told_by_name_and_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, Driver((12, 0)))
    assert first_gpu() == Gpu(name="NVIDIA Test", capability="12.0")


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "its driver's library libcuda.so.1 is not found on this host"),
        (Driver(count=0), r"libcuda\.so\.1 counts 0 \(CUresult 0\)"),
        (Driver(status=100), r"libcuda\.so\.1 counts 0 \(CUresult 100\)"),
    ],
)
def test_missing_gpu_is_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, reason: str
) -> None:
    plug_in(monkeypatch, driver)
    with pytest.raises(UnsupportedError, match=f"^no NVIDIA GPU: {reason}$"):
        first_gpu()
