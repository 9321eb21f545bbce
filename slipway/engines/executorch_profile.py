"""What a ``.pte`` executed, told by the runtime's own event tracer (ETDump)."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from slipway.decisions.precision import OF_ACTIVATIONS
from slipway.engines.executorch_runtime import package_path
from slipway.errors import UnsupportedError, first_line
from slipway.records import Layer

if TYPE_CHECKING:
    from slipway.engines.executorch_runtime import ExecuTorchSession

TOOL = "ExecuTorch ETDump"
MOST_CALLS = 100  # the tracer keeps every event in memory until it is asked

Traced: TypeAlias = list[tuple[Layer, float]]  # an executed operator, and when it started, in µs

_PORTABLE = "native_call_"  # what the tracer puts before the name of a kernel outside XNNPACK
# In XNNPACK's words, whose types follow the layout: "Convolution (NHWC, QC8) IGEMM", "Fully Connected (NC, F32) GEMM".
_XNNPACK_MULTIPLIES = ("Convolution", "Deconvolution", "Fully Connected", "Batch Matrix Multiply")
_PORTABLE_MULTIPLIES = re.compile(r"^(convolution|addmm|mm|bmm|baddbmm|matmul|linear|mixed_linear|mixed_mm)\b")
_PRODUCTS = ("Batch Matrix Multiply", "bmm", "baddbmm")  # of two activations
_FLOATS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64"}
_INT8 = re.compile(r"\bQ[SCUD]+8W?\b")
_UNTOLD = "none"


def traced_calls(session: ExecuTorchSession, portable: str, blocks: int) -> list[Traced]:
    """The layers of each call of a session that traces; a call is ``blocks`` executions of the program, one a part.

    ``portable`` is the float type that kernels outside XNNPACK compute in, which the tracer does not tell.

    Raises:
        UnsupportedError: the runtime's trace cannot be read.
    """
    runs = [[one["profile_event"] for one in run["events"] if "profile_event" in one] for run in _runs(session)]
    executions = [list(_layers(run, portable)) for run in runs]
    starts = range(0, len(executions), blocks)
    return [list(chain.from_iterable(executions[start : start + blocks])) for start in starts]


def _runs(session: ExecuTorchSession) -> list[Any]:
    """The executions that ETDump holds, read by flatc, which comes with the runtime, by the schema beside it."""
    package = package_path()
    schema = package / "devtools" / "etdump" / "etdump_schema_flatcc.fbs"
    options = ("--json", "--strict-json", "--defaults-json", "--size-prefixed")
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "dump.etdp"
        session.write_trace(dump)
        command = [str(package / "data" / "bin" / "flatc"), *options, "-o", folder, str(schema), "--", str(dump)]
        try:
            subprocess.run(command, check=True, capture_output=True)
            told = json.loads(dump.with_suffix(".json").read_text(encoding="utf-8", errors="replace"))
        except (OSError, subprocess.CalledProcessError, json.JSONDecodeError) as error:
            raise UnsupportedError(f"what ExecuTorch traced cannot be read: {first_line(error)}") from error
    return [run for run in told["run_data"] if run["name"] == "Execute"]


def _layers(events: list[Any], portable: str) -> Iterator[tuple[Layer, float]]:
    """The operators of one execution; what merely wraps them, or is over in nanoseconds, is left out."""
    for event in events:
        inside, name = event.get("delegate_debug_id_str"), event.get("name") or ""
        if inside:
            kind = inside.partition(" #")[0]
            multiplies = kind.startswith(_XNNPACK_MULTIPLIES)
            precision = precision_in(kind)
        elif name.startswith(_PORTABLE):
            kind = name.removeprefix(_PORTABLE)
            multiplies = bool(_PORTABLE_MULTIPLIES.match(kind))
            precision = portable
        else:
            continue
        kind += OF_ACTIVATIONS * kind.startswith(_PRODUCTS)
        told = f"{event['instruction_id']}: {inside or kind}"
        time_us = (event["end_time"] - event["start_time"]) / 1e3
        layer = Layer(name=told, kind=kind, precision=precision, multiplies=multiplies, time_us=time_us)
        yield layer, event["start_time"] / 1e3


def precision_in(kind: str) -> str:
    """The precision that XNNPACK's name of an operator tells; ``none`` where it tells none, as of an addition."""
    if _INT8.search(kind):
        return "int8"
    return next((precision for spelled, precision in _FLOATS.items() if re.search(rf"\b{spelled}\b", kind)), _UNTOLD)


def trace_events(calls: list[Traced]) -> Iterator[dict[str, Any]]:
    """Calls as Chrome's trace shows them; the first begins at 0."""
    begin = min((start for call in calls for _, start in call), default=0.0)
    for call in calls:
        for layer, start in call:
            args = {"precision": layer.precision, "kind": layer.kind}
            times = {"ts": start - begin, "dur": layer.time_us}
            yield {"name": layer.name, "ph": "X", "pid": 0, "tid": 0, "args": args, **times}
