"""Engines: one file per runtime, all behind the protocol in ``base``; this is their registry."""

from __future__ import annotations

import importlib

from slipway.engines.base import Availability, Engine
from slipway.errors import BadInputError, UnsupportedError, nearest

ENGINES: dict[str, str] = {
    "torch": "slipway.engines.torch_eager:TorchEngine",
    "torchscript": "slipway.engines.torchscript:TorchScriptEngine",
    "onnxruntime": "slipway.engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "slipway.engines.openvino:OpenVinoEngine",
}


def engine(name: str) -> Engine:
    """The engine called ``name``, ready to build and load.

    Raises:
        BadInputError: no engine has this name.
        UnsupportedError: its runtime is not installed.
    """
    if name not in ENGINES:
        raise BadInputError(f"unknown engine {name!r}{nearest(name, ENGINES)}; known: {', '.join(ENGINES)}")
    found = _create(name)
    availability = found.availability()
    if not availability.available:
        package = f"slipway[{availability.extra}]" if availability.extra else "slipway"
        raise UnsupportedError(f"engine {name} cannot run here: {availability.reason}; pip install '{package}'")
    return found


def availabilities() -> tuple[Availability, ...]:
    """Every engine, available or why not, without importing any runtime."""
    return tuple(_create(name).availability() for name in ENGINES)


def _create(name: str) -> Engine:
    module, _, class_name = ENGINES[name].partition(":")
    created: Engine = getattr(importlib.import_module(module), class_name)()
    return created
