"""Profiles made by hand."""

from __future__ import annotations

from slipway.records import Layer, Profile


def layer(name: str, kind: str, precision: str = "fp32", time_us: float | None = 10.0) -> Layer:
    """One executed operation; it multiplies if its kind says so."""
    multiplies = any(word in kind.lower() for word in ("conv2d", "convolution", "qlinearconv", "gemm", "linear_"))
    return Layer(name=name, kind=kind, precision=precision, multiplies=multiplies, time_us=time_us)


def profile(*layers: Layer, threads: int = 1, tool: str = "a profiler") -> Profile:
    """Two calls of one example."""
    return Profile(tool=tool, layers=layers, calls=2, batch=1, threads=threads)
