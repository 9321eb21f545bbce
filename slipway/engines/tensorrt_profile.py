"""What TensorRT executes: the layers of its engine inspector, and the times of its profiler."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slipway.engines.profiling import TRACED_CALLS, mean_layers, write_trace
from slipway.errors import UnsupportedError
from slipway.records import Layer

TOOL = "tensorrt profiler"
# Layers that multiply and accumulate, by LayerType, by ParameterType, or by the words in them: convolutions, products,
# recurrent cells and fused attention.
MULTIPLIES = re.compile(
    "conv(?!ert)|gemm|matmul|matrix_?multiply|fullyconnected|mha|attention|rnn|lstm|gru", re.IGNORECASE
)
# How the inspector spells types, alone ("Float") and inside of formats ("Row major linear FP16 format").
TYPES = re.compile(r"\b(float|fp32|half|fp16|bfloat16|bf16|int8|fp8|e4m3|fp4|int4)\b", re.IGNORECASE)
PRECISIONS = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "e4m3": "fp8"}


def inspected_layers(information: str) -> tuple[Layer, ...]:
    """Layers of an engine from its inspector's JSON, without times.

    Raises:
        UnsupportedError: the engine was built without detailed profiling information.
    """
    layers: list[Any] = json.loads(information)["Layers"]
    if any(not isinstance(layer, dict) for layer in layers):
        raise UnsupportedError("the engine tells no more than its layers' names: it was built without details")
    return tuple(_layer(layer) for layer in layers)


def profiled_layers(layers: Sequence[Layer], times: Sequence[Mapping[str, float]]) -> tuple[Layer, ...]:
    """Those layers with their mean times over the calls, by each call's times in us."""
    return mean_layers([_call(layers, call) for call in times])


def write_times(trace: Path, layers: Sequence[Layer], times: Sequence[Mapping[str, float]]) -> None:
    """Write the last calls as a Chrome trace; the profiler tells how long, but not when: one stands behind another."""
    events, now_us = [], 0.0
    for layer in (layer for call in times[-TRACED_CALLS:] for layer in _call(layers, call)):
        duration_us = layer.time_us or 0.0
        place = {"ph": "X", "pid": 0, "tid": 0, "ts": now_us, "dur": duration_us}
        told = {"kind": layer.kind, "precision": layer.precision}
        events.append({"name": layer.name, "cat": layer.kind, **place, "args": told})
        now_us += duration_us
    write_trace(trace, events)


def _call(layers: Sequence[Layer], times: Mapping[str, float]) -> list[Layer]:
    known = {layer.name for layer in layers}
    others = [
        Layer(name=n, kind="?", precision="none", multiplies=False, time_us=None) for n in times if n not in known
    ]
    return [layer.model_copy(update={"time_us": times.get(layer.name, 0.0)}) for layer in (*layers, *others)]


def _layer(told: Mapping[str, Any]) -> Layer:
    kinds = [told[key] for key in ("LayerType", "ParameterType") if told.get(key)]
    return Layer(
        name=told["Name"],
        kind=" ".join(dict.fromkeys(kinds)),
        precision=_precision(told),
        multiplies=any(MULTIPLIES.search(kind) for kind in kinds),
        time_us=None,
    )


def _precision(told: Mapping[str, Any]) -> str:
    """By what goes in first: weights may be held in a smaller type than they are multiplied in."""
    inputs = told.get("Inputs") or []
    spelled = [str(inputs[0].get(key, "")) for key in ("DataType", "Format/Datatype", "Format")] if inputs else []
    spelled.append(str((told.get("Weights") or {}).get("Type", "")))
    for one in spelled:
        if found := TYPES.search(one):
            word = found[0].lower()
            return PRECISIONS.get(word, word)
    return "none"
