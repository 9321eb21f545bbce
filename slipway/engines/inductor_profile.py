"""What compiled code executed: the kernels that Inductor wrote and those that it calls, with oneDNN's own word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from slipway.decisions.precision import OF_ACTIVATIONS
from slipway.engines.base import Arrays
from slipway.engines.inductor_package import ANY_BATCH, Kernel, Label
from slipway.engines.profiling import (
    TRACED_CALLS,
    WARM_UP_CALLS,
    batch_of,
    is_precision,
    mean_layers,
    precision_of,
    write_trace,
)
from slipway.engines.session import CheckedSession
from slipway.engines.torch_profile import (
    CALL,
    MOST_CALLS,
    OF_TWO_BATCHES,
    ONEDNN,
    TOOL,
    Span,
    calls_of,
    multiplies_by_name,
    record,
)
from slipway.records import Layer, Profile

_WRITTEN = re.compile(r"^graph_\d+_(cpp_\w+)$")
_DEVICE = re.compile(r"^aoti_torch_(?:cpu|cuda)_(?:mkldnn_)?_*")
_UNKNOWN = Kernel(precision="none", multiplies=False)
_TO_NUMPY = re.compile(r"^(lift_fresh|to|detach|resolve_\w+)$")  # and back: the session's work, not the model's


def profile_session(
    session: CheckedSession, label: Label, arrays: Arrays, calls: int, threads: int, trace: Path
) -> Profile:
    """Run ``calls`` calls of an open session, but not more than 20, under PyTorch's profiler."""
    batch = batch_of(arrays)
    model = next(name for name, of in sorted(label.models.items(), key=lambda one: -one[1]) if of in (batch, ANY_BATCH))
    kernels = {name.partition("/")[2]: one for name, one in label.kernels.items() if name.startswith(f"{model}/")}
    calls = min(calls, MOST_CALLS)
    for _ in range(WARM_UP_CALLS):
        session.infer(arrays)
    events = record(lambda: session.infer(arrays), calls)
    first = sorted(event["ts"] for event in events if event["name"] == CALL)[-TRACED_CALLS:][0]
    write_trace(trace, (event for event in events if event["ph"] == "M" or event.get("ts", 0) >= first))
    layers = mean_layers([_layers(call, kernels) for call in calls_of(events)])
    return Profile(tool=TOOL, layers=layers, calls=calls, batch=batch, threads=threads)


def _layers(call: Span, kernels: Mapping[str, Kernel]) -> list[Layer]:
    seen: Counter[str] = Counter()
    layers = []
    for span in call.inside:
        if _TO_NUMPY.match(span.name):
            continue
        layer = _layer(span, kernels)
        number = seen[layer.name]
        seen[layer.name] += 1
        layers.append(layer.model_copy(update={"name": f"{layer.name}_{number}"}) if number else layer)
    return layers


def _layer(span: Span, kernels: Mapping[str, Kernel]) -> Layer:
    time_us = float(span.event["dur"])
    if written := _WRITTEN.match(span.name):
        kernel = kernels.get(written[1], _UNKNOWN)
        return Layer(
            name=written[1], kind="cpp", precision=kernel.precision, multiplies=kernel.multiplies, time_us=time_us
        )
    name = _DEVICE.sub("", span.name)
    primitive = next((one for one in _within(span) if one.is_onednn and one.multiplies), None)
    kind = f"{ONEDNN}::{primitive.name}" if primitive else name
    return Layer(
        name=name,
        kind=kind + OF_ACTIVATIONS if OF_TWO_BATCHES.search(name) else kind,
        precision=precision_of(primitive.event["args"]["Input type"][0]) if primitive else _precision(span),
        multiplies=primitive is not None or multiplies_by_name(name),
        time_us=time_us,
    )


def _within(span: Span) -> Iterator[Span]:
    for one in span.inside:
        yield one
        yield from _within(one)


def _precision(span: Span) -> str:
    """Of the first numbers that an operator reads, or one inside it: the call itself does not tell what it is given."""
    for one in (span, *_within(span)):
        for kind in one.event["args"].get("Input type", []):
            if is_precision(kind):
                return precision_of(kind)
    return "none"
