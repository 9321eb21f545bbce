"""What OpenVINO executed: its execution graph, and its performance counters of each call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.decisions.precision import OF_ACTIVATIONS
from slipway.engines.profiling import TRACED_CALLS, is_precision, mean_layers, precision_of, write_trace
from slipway.records import Layer

if TYPE_CHECKING:
    import openvino

TOOL = "openvino performance counters"
# Layers of the compiled graph that multiply and accumulate.
COMPUTE_NAMES = (
    "Convolution Deconvolution DeformableConvolution FullyConnected LLMMLP MHA MatMul PagedAttention QKVProjection "
    "RNNCell RNNSeq ScaledDotProductAttention ScaledDotProductAttentionWithKVCache"
)
COMPUTE_LAYERS = frozenset(COMPUTE_NAMES.split())
PRODUCTS = frozenset({"MatMul", "ScaledDotProductAttention", "ScaledDotProductAttentionWithKVCache"})
NO_WORK = frozenset({"Const", "Input", "Output"})


def graph_layers(compiled: openvino.CompiledModel) -> tuple[Layer, ...]:
    """Operations of the execution graph in the order of their execution, without times."""
    operations = [operation for operation in compiled.get_runtime_model().get_ops() if _told(operation, "execOrder")]
    operations.sort(key=lambda operation: int(_told(operation, "execOrder")))
    return tuple(_layer(operation) for operation in operations if _told(operation, "layerType") not in NO_WORK)


def executed_us(request: openvino.InferRequest) -> dict[str, float]:
    """Time of each operation that the last call of ``request`` executed; one may be executed in several parts."""
    import openvino

    total: defaultdict[str, float] = defaultdict(float)
    for info in request.get_profiling_info():
        if info.status == openvino.ProfilingInfo.Status.EXECUTED:
            total[info.node_name] += info.real_time.total_seconds() * 1e6
    return dict(total)


def profiled_layers(graph: Sequence[Layer], counters: Sequence[Mapping[str, float]]) -> tuple[Layer, ...]:
    """The layers of ``graph`` that were executed, with their mean times over the calls."""
    return mean_layers([_call(graph, times) for times in counters])


def write_counters(trace: Path, graph: Sequence[Layer], counters: Sequence[Mapping[str, float]]) -> None:
    """Write the last calls as a Chrome trace; the counters tell how long, but not when: one stands behind another."""
    events = []
    now_us = 0.0
    for times in counters[-TRACED_CALLS:]:
        for layer in _call(graph, times):
            duration_us = layer.time_us or 0.0
            told = {"kind": layer.kind, "precision": layer.precision}
            place = {"ph": "X", "pid": 0, "tid": 0, "ts": now_us, "dur": duration_us}
            events.append({"name": layer.name, "cat": layer.kind, **place, "args": told})
            now_us += duration_us
    write_trace(trace, events)


def _call(graph: Sequence[Layer], times: Mapping[str, float]) -> list[Layer]:
    # what takes less than a microsecond is not told as executed, but what multiplies always is
    ran = [layer for layer in graph if layer.multiplies or layer.name in times]
    return [layer.model_copy(update={"time_us": times.get(layer.name, 0.0)}) for layer in ran]


def _layer(operation: openvino.Node) -> Layer:
    kind = _told(operation, "layerType")
    operands = [value.get_node() for value in operation.input_values()]
    of_activations = kind in PRODUCTS and all(_told(node, "layerType") != "Const" for node in operands)
    return Layer(
        name=operation.get_friendly_name(),
        kind=kind + OF_ACTIVATIONS if of_activations else kind,
        precision=_precision(operation),
        multiplies=kind in COMPUTE_LAYERS,
        time_us=None,
    )


def _precision(operation: openvino.Node) -> str:
    """By the kernel's name, such as brgconv_avx512_I8, where that tells it.

    The runtime precision of a matrix product with int8 weights is i8, even if its kernel decompresses them and computes
    in fp32.
    """
    by_kernel = _told(operation, "primitiveType").rpartition("_")[2].lower()
    return precision_of(by_kernel if is_precision(by_kernel) else _told(operation, "runtimePrecision"))


def _told(operation: openvino.Node, key: str) -> str:
    """What the plugin tells about an operation; empty where it tells nothing."""
    info = operation.get_rt_info()
    return str(info[key].value) if key in info else ""
