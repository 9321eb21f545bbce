"""The NVIDIA GPU of this host, as its driver's own library tells it: no CUDA toolkit and no framework is needed."""

from __future__ import annotations

import ctypes

from slipway.errors import UnsupportedError
from slipway.records import Record

DRIVER = "libcuda.so.1"
# CUdevice_attribute of the CUDA driver API (cuda.h).
MAJOR, MINOR = 75, 76


class Gpu(Record):
    """A GPU by its name and its compute capability, such as ``8.9``."""

    name: str
    capability: str


def first_gpu() -> Gpu:
    """The GPU that CUDA counts as its first.

    Raises:
        UnsupportedError: there is none, or no driver for it; the message names the missing library.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise UnsupportedError(f"no NVIDIA GPU: its driver's library {DRIVER} is not found on this host") from error
    count, device = ctypes.c_int(), ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise UnsupportedError(f"no NVIDIA GPU: {DRIVER} counts {count.value} (CUresult {status})")
    driver.cuDeviceGet(ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    major, minor = (_attribute(driver, attribute, device) for attribute in (MAJOR, MINOR))
    return Gpu(name=name.value.decode(), capability=f"{major}.{minor}")


def require_gpu(engine: str, instead: str) -> None:
    """Check that this host has a GPU for ``engine``, which was set to run on one.

    Raises:
        UnsupportedError: it has none; ``instead`` is the setting that does without.
    """
    try:
        first_gpu()
    except UnsupportedError as error:
        raise not_on_gpu(engine, str(error), instead) from error


def not_on_gpu(engine: str, reason: str, instead: str) -> UnsupportedError:
    """The error for an ``engine`` that was set to run on a GPU, and cannot here."""
    return UnsupportedError(
        f"engine {engine} cannot run here: {reason}; attach a Prefect worker on a host that has what it wants "
        f"(targets.T.work_pool), or set {instead} and build the candidate again"
    )


def _attribute(driver: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value
