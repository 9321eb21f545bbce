"""What the profiles of all runtimes have in common: how long, which precision, mean times, and the trace."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from slipway.engines.base import Arrays
from slipway.records import Layer

WARM_UP_CALLS = 5
TRACED_CALLS = 5  # a trace is to be looked at; one of every call would take megabytes

_LEAST_CALLS = 3  # that a mean is taken over
# As the runtimes spell them: ONNX Runtime and PyTorch, OpenVINO and oneDNN.
_PRECISIONS = {
    "double": "fp64",
    "f64": "fp64",
    "float": "fp32",
    "f32": "fp32",
    "float16": "fp16",
    "c10::Half": "fp16",
    "f16": "fp16",
    "bfloat16": "bf16",
    "c10::BFloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
    "uint8": "int8",
    "signed char": "int8",
    "unsigned char": "int8",
    "c10::qint8": "int8",
    "c10::quint8": "int8",
    "i8": "int8",
    "u8": "int8",
    "s8": "int8",
}


def precision_of(dtype: str) -> str:
    """A runtime's data type as Slipway names the precision; a type that is none, such as int64, keeps its name."""
    return _PRECISIONS.get(dtype, dtype)


def is_precision(dtype: str) -> bool:
    """Whether a runtime's data type is one that arithmetic of a model runs in."""
    return dtype in _PRECISIONS


def mean_layers(calls: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    """Layers of several calls, their names unique within a call, as one call of mean times.

    Of the calls, the fastest quarter counts, at least three, so that what else ran on the host does not; the means then
    add up to a call. A layer that some of these calls did not reach counts there with no time.
    """
    fastest_first = sorted(calls, key=lambda call: sum(layer.time_us or 0.0 for layer in call))
    quiet = fastest_first[: max(_LEAST_CALLS, math.ceil(len(calls) / 4))]
    total_us: defaultdict[str, float] = defaultdict(float)
    first: dict[str, Layer] = {}
    for layer in (layer for call in quiet for layer in call):
        first.setdefault(layer.name, layer)
        total_us[layer.name] += layer.time_us or 0.0
    return tuple(layer.model_copy(update={"time_us": total_us[name] / len(quiet)}) for name, layer in first.items())


def batch_of(arrays: Arrays) -> int:
    """How many examples a call gets."""
    return len(next(iter(arrays.values())))


def write_trace(trace: Path, events: Iterable[Any]) -> None:
    """Write ``events`` in Chrome's format, which chrome://tracing and ui.perfetto.dev show."""
    trace.write_text(json.dumps({"traceEvents": list(events), "displayTimeUnit": "ms"}), encoding="utf-8")
