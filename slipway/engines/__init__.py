"""Engines: one file per runtime, all behind the protocol in ``base``; this is their registry."""

from __future__ import annotations

import difflib
import importlib

from slipway.engines.base import Availability, Engine
from slipway.errors import BadInputError, UnsupportedError

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
        close = difflib.get_close_matches(name, ENGINES, n=1)
        nearest = f", did you mean {close[0]!r}?" if close else ""
        raise BadInputError(f"unknown engine {name!r}{nearest}; known: {', '.join(ENGINES)}")
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
