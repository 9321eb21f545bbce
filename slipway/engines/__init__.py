"""Engines: one file per runtime, all behind the protocol in ``base``; this is their registry."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from slipway.engines.base import Availability, Engine
from slipway.errors import BadInputError, UnsupportedError, nearest

ENGINES: dict[str, str] = {
    "torch": "slipway.engines.torch_eager:TorchEngine",
    "torchscript": "slipway.engines.torchscript:TorchScriptEngine",
    "inductor": "slipway.engines.inductor:InductorEngine",
    "onnxruntime": "slipway.engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "slipway.engines.openvino:OpenVinoEngine",
    "tensorrt": "slipway.engines.tensorrt:TensorRtEngine",
    "tensorrt-rtx": "slipway.engines.tensorrt_rtx:TensorRtRtxEngine",
    "tvm": "slipway.engines.tvm:TvmEngine",
    "executorch": "slipway.engines.executorch:ExecuTorchEngine",
}


def engine(name: str) -> Engine:
    """The engine called ``name``, ready to build and load.

    Raises:
        BadInputError: no engine has this name.
        UnsupportedError: its runtime is not installed, or cannot build here.
    """
    if name not in ENGINES:
        raise BadInputError(f"unknown engine {name!r}{nearest(name, ENGINES)}; known: {', '.join(ENGINES)}")
    found = described_engine(name)
    availability = found.availability()
    if not availability.available:
        package = f"slipway[{availability.extra}]" if availability.extra else "slipway"
        raise UnsupportedError(f"engine {name} is not available here: {availability.reason}; pip install '{package}'")
    return found


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Check what is set for the engine called ``name`` alone.

    Raises:
        BadInputError: it has no such setting, or the value is wrong.
    """
    known = engine(name).settings
    try:
        known.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            names = ", ".join(known.model_fields) or "none"
            raise BadInputError(
                f"engine {name} has no setting {where!r}{nearest(where, known.model_fields)}; known: {names}"
            ) from error
        said = first["msg"].removeprefix("Value error, ")
        raise BadInputError(f"engine {name}, setting {where!r}: {said} (found {first['input']!r})") from error


def availabilities() -> tuple[Availability, ...]:
    """Every engine, available or why not, without importing any runtime."""
    return tuple(described_engine(name).availability() for name in ENGINES)


def described_engine(name: str) -> Engine:
    """The engine called ``name``, whether or not it is available here."""
    module, _, class_name = ENGINES[name].partition(":")
    created: Engine = getattr(importlib.import_module(module), class_name)()
    return created
