"""What PyTorch executed: the operators that the program calls, by torch.profiler and by oneDNN's own log."""

from __future__ import annotations

import functools
import json
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from slipway.decisions.precision import OF_ACTIVATIONS
from slipway.engines.base import Arrays
from slipway.engines.onednn_verbose import Primitive, primitives
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
from slipway.records import Layer, Profile

TOOL = "torch.profiler"
CALL = "slipway call"
ONEDNN = "onednn"
MOST_CALLS = 20  # a call leaves some hundred events or thousands, and reading them takes longer than the calls
# A word of an operator's name that says that it multiplies and accumulates: mkldnn_convolution, linear_dynamic, addmm.
_MULTIPLIES = re.compile(
    r"(^|_)(conv(olution|_?\d?d|_transpose\d?d?|_depthwise\dd|_tbc)?|linear|(b?add)?b?mm|addmv|mv|matmul|bilinear|"
    r"inner_product|deconvolution|lstm|gru|rnn|attention|einsum|\w*rnn_layer)(?=_|$)"
)
# Products of two batches of matrices (weights come as a single matrix), and attention that is given them.
OF_TWO_BATCHES = re.compile(r"^(bmm|baddbmm)$|scaled_dot_product")
# What the GPU does, as against what the CPU does to have it done.
_OF_THE_GPU = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_NO_WORK = frozenset(
    {"lift_fresh", "detach", "alias", "empty", "resolve_conj", "resolve_neg", "_assert_tensor_metadata"}
)


@dataclass
class Span:
    """One event, with those inside it."""

    event: dict[str, Any]
    inside: list[Span] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The operator's or kernel's name without its namespace."""
        return str(self.event["name"]).rpartition("::")[2]

    @property
    def is_onednn(self) -> bool:
        """Whether it is a primitive of oneDNN."""
        return bool(self.event["cat"] == ONEDNN)

    @property
    def multiplies(self) -> bool:
        """Whether it multiplies and accumulates, or anything inside it does."""
        return multiplies_by_name(self.name) or any(span.multiplies for span in self.inside)


@functools.cache
def multiplies_by_name(name: str) -> bool:
    """Whether an operator of this name multiplies and accumulates."""
    return bool(_MULTIPLIES.search(name))


def profile_session(session: CheckedSession, arrays: Arrays, calls: int, threads: int, trace: Path) -> Profile:
    """Run ``calls`` calls of an open session of PyTorch, but not more than 20, under its profiler."""
    calls = min(calls, MOST_CALLS)
    for _ in range(WARM_UP_CALLS):
        session.infer(arrays)
    events = record(lambda: session.infer(arrays), calls)
    starts = sorted(event["ts"] for event in events if event["name"] == CALL)
    first = starts[-TRACED_CALLS:][0]
    write_trace(trace, (event for event in events if event["ph"] == "M" or event.get("ts", 0) >= first))
    gpu_us = gpu_times_us(events)
    layers = mean_layers([_layers(span, gpu_us) for span in calls_of(events)])
    return Profile(tool=TOOL, layers=layers, calls=calls, batch=batch_of(arrays), threads=threads)


def record(run_once: Callable[[], object], calls: int) -> list[dict[str, Any]]:
    """The Chrome trace of ``calls`` calls; oneDNN's primitives are events of it, of the category ``onednn``."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it tells of every start and stop on stderr

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with primitives() as ran, profile(activities=activities, record_shapes=True) as recorder:
        for _ in range(calls):
            with record_function(CALL):
                run_once()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorder.export_chrome_trace(str(path))
        told = json.loads(path.read_text(encoding="utf-8"))
    events: list[dict[str, Any]] = told["traceEvents"]
    place = next(({"pid": e["pid"], "tid": e["tid"]} for e in events if e["name"] == CALL), {})
    epoch_us = told.get("baseTimeNanoseconds", 0) / 1e3
    return events + [_event(primitive, epoch_us) | place for primitive in ran]


def _event(primitive: Primitive, epoch_us: float) -> dict[str, Any]:
    return {
        "name": primitive.kind,
        "cat": ONEDNN,
        "ph": "X",
        "ts": primitive.start_us - epoch_us,
        "dur": primitive.duration_us,
        "args": {"kernel": primitive.kernel, "shape": primitive.shape, "Input type": [primitive.dtype]},
    }


def calls_of(events: Sequence[dict[str, Any]]) -> list[Span]:
    """The calls in order, each with what ran inside it; nested by time, as one thread runs them all."""
    calls = [Span(event) for event in events if event["name"] == CALL and event["cat"] == "user_annotation"]
    calls.sort(key=lambda span: span.event["ts"])
    starts = [span.event["ts"] for span in calls]
    thread = calls[0].event["tid"]
    ran = [e for e in events if e.get("cat") in ("cpu_op", ONEDNN) and e["tid"] == thread]
    for event in sorted(ran, key=lambda event: (event["ts"], -event["dur"])):
        call = bisect_right(starts, event["ts"]) - 1
        if call >= 0:
            _put(calls[call], Span(event))
    return calls


def gpu_times_us(events: Sequence[dict[str, Any]]) -> Mapping[int, float]:
    """Time on the GPU by the id of the operator that asked for it; none where nothing ran there."""
    times: Counter[int] = Counter()
    for event in events:
        if event.get("cat") in _OF_THE_GPU:
            times[event["args"].get("External id", 0)] += event["dur"]
    return times


def _put(call: Span, span: Span) -> None:
    """Nest ``span`` by its middle: the two clocks agree to a microsecond or two."""
    middle = span.event["ts"] + span.event["dur"] / 2
    around = call
    while around.inside:
        last = around.inside[-1]
        if last.is_onednn or middle >= last.event["ts"] + last.event["dur"]:
            break
        around = last
    around.inside.append(span)


def _layers(call: Span, gpu_us: Mapping[int, float]) -> list[Layer]:
    """The outermost operators of a call, named and numbered as torch.fx does: conv2d, conv2d_1, ..."""
    seen: Counter[str] = Counter()
    layers = []
    for span in _outermost(call):
        number = seen[span.name]
        seen[span.name] += 1
        layer = _layer(span, f"{span.name}_{number}" if number else span.name)
        layers.append(layer.model_copy(update={"time_us": _on_gpu_us(span, gpu_us)}) if gpu_us else layer)
    return layers


def _on_gpu_us(span: Span, gpu_us: Mapping[int, float]) -> float:
    """How long the GPU worked for an operator and those inside it; the CPU has left it by then."""
    own = gpu_us.get(span.event.get("args", {}).get("External id", -1), 0.0)
    return own + sum(_on_gpu_us(one, gpu_us) for one in span.inside)


def _outermost(around: Span) -> Iterator[Span]:
    for span in around.inside:
        if not span.is_onednn and "::" not in span.event["name"]:
            yield from _outermost(span)  # a module's forward: not an operator
        elif span.name not in _NO_WORK and (span.name != "to" or span.inside):
            yield span


def _layer(span: Span, name: str) -> Layer:
    kernel = _kernel(span)
    kind = f"{ONEDNN}::{kernel.name}" if kernel.is_onednn else kernel.name
    return Layer(
        name=name,
        kind=kind + OF_ACTIVATIONS if OF_TWO_BATCHES.search(kernel.name) else kind,
        precision=_precision(kernel),
        multiplies=span.multiplies,
        time_us=float(span.event["dur"]),
    )


def _kernel(span: Span) -> Span:
    """The operator that does the work: conv2d calls convolution, that calls mkldnn_convolution."""
    while len(multiplying := [one for one in span.inside if one.multiplies and not one.is_onednn]) == 1:
        (span,) = multiplying
    return span


def _precision(kernel: Span) -> str:
    """By oneDNN where it did the work, else by the operator's own inputs."""
    for inner in kernel.inside:
        if inner.is_onednn and inner.multiplies:
            return precision_of(inner.event["args"]["Input type"][0])
    if kernel.event["name"].startswith("quantized::"):
        return "fp16" if kernel.name.endswith("_fp16") else "int8"
    told = kernel.event["args"].get("Input type", [])
    return next((precision_of(dtype) for dtype in told if is_precision(dtype)), "none")
