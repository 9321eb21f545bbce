"""What ONNX Runtime executed: operators of the graph that it runs, by its file and by its own profiler."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.decisions.precision import OF_ACTIVATIONS
from slipway.engines.profiling import TRACED_CALLS, is_precision, mean_layers, precision_of, write_trace
from slipway.records import Layer

if TYPE_CHECKING:
    import onnx

TOOL = "onnxruntime profiler"
MOST_CALLS = 200  # reading what it wrote takes longer than the calls
# Operators of the optimised graph that multiply and accumulate: those that take floats, and those that take integers
# or make them from floats themselves.
FLOAT_OPERATORS = (
    "Attention Conv ConvTranspose Einsum FusedConv FusedGemm FusedMatMul FusedMatMulActivation GRU Gemm GemmFastGelu "
    "GroupQueryAttention LSTM MatMul MatMulNBits MultiHeadAttention NhwcFusedConv PackedMultiHeadAttention RNN"
)
INTEGER_OPERATORS = (
    "ConvInteger DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulInteger MatMulIntegerToFloat QAttention QGemm "
    "QLinearConv QLinearMatMul"
)
FLOAT_KINDS, INT8_KINDS = frozenset(FLOAT_OPERATORS.split()), frozenset(INTEGER_OPERATORS.split())
PRODUCTS = frozenset({"MatMul", "FusedMatMul", "FusedMatMulActivation", "GroupQueryAttention", "MultiHeadAttention"})
CONTROL = frozenset({"If", "Loop", "Scan"})  # their time is that of the operators inside, which are told as well
SUFFIX = "_kernel_time"


def file_layers(path: Path) -> tuple[Layer, ...]:
    """Operators of the optimised file at ``path``, without times."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return tuple(_layers_of(graph, {}))


def _layers_of(graph: onnx.GraphProto, outer: dict[str, str]) -> Iterator[Layer]:
    import onnx

    constants = outer | {one.name: onnx.TensorProto.DataType.Name(one.data_type).lower() for one in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _layers_of(attribute.g, constants)
        operands = [constants[name] for name in node.input if name in constants]
        if node.op_type in PRODUCTS and not any(name in constants for name in node.input[:2]):
            yield _layer(node.name, node.op_type, operands, of_activations=True)
        elif node.op_type not in CONTROL:
            yield _layer(node.name, node.op_type, operands, of_activations=False)


def profiled_layers(events: Sequence[dict[str, Any]], path: Path, calls: int) -> tuple[Layer, ...]:
    """Operators that the last ``calls`` calls of a profile executed, with their mean times.

    ``path`` is the file that was run: it tells which matrix products have weights.
    """
    of_activations = {layer.name for layer in file_layers(path) if layer.kind.endswith(OF_ACTIVATIONS)}
    return mean_layers([[_measured(event, of_activations) for event in call] for call in _calls(events)[-calls:]])


def trim(events: Sequence[dict[str, Any]], trace: Path) -> None:
    """Write loading and the last calls of a profile to ``trace``."""
    ends = [position for position, event in enumerate(events) if event["name"] == "model_run"]
    loading = [event for event in events if event["cat"] == "Session" and event["name"] != "model_run"]
    start = ends[-TRACED_CALLS - 1] + 1 if len(ends) > TRACED_CALLS else 0
    write_trace(trace, [*(e for e in loading if e not in events[start:]), *events[start:]])


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The one profile that a session has written to ``folder``."""
    (written,) = folder.iterdir()
    events: list[dict[str, Any]] = json.loads(written.read_text(encoding="utf-8"))
    return events


def _calls(events: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Operators by call: a profile tells a call when it has ended, after its operators."""
    calls: list[list[dict[str, Any]]] = [[]]
    for event in events:
        if event["name"] == "model_run":
            calls.append([])
        elif event["name"].endswith(SUFFIX) and event["args"]["op_name"] not in CONTROL:
            calls[-1].append(event)
    return calls[:-1]


def _measured(event: dict[str, Any], of_activations: set[str]) -> Layer:
    name = event["name"].removesuffix(SUFFIX)
    # a constant that the kernel keeps in a form of its own is no longer told
    operands = [dtype for operand in event["args"]["input_type_shape"] for dtype in operand]
    layer = _layer(name, event["args"]["op_name"], operands, of_activations=name in of_activations)
    return layer.model_copy(update={"time_us": float(event["dur"])})


def _layer(name: str, kind: str, operands: Sequence[str], *, of_activations: bool) -> Layer:
    """An operator that takes ``operands``, told by their ONNX types."""
    dtype = next((dtype for dtype in operands if is_precision(dtype)), "float" if kind in FLOAT_KINDS else "none")
    return Layer(
        name=name,
        kind=kind + OF_ACTIVATIONS if of_activations else kind,
        precision="int8" if kind in INT8_KINDS else precision_of(dtype),
        multiplies=kind in FLOAT_KINDS | INT8_KINDS,
        time_us=None,
    )
