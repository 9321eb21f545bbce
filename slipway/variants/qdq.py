"""Static int8 as ONNX spells it: which nodes compute in int8, and the graph with quantize and dequantize nodes."""

from __future__ import annotations

import copy
import math
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from slipway.errors import RejectedError, UnsupportedError, first_line
from slipway.variants.inner_values import Arrays, Probe
from slipway.variants.root_logger import quiet_root_logger

if TYPE_CHECKING:
    import onnx

Ranges: TypeAlias = Mapping[str, tuple[float, float]]

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# The output of a matrix product stays in fp32: what follows it (bias, sum, softmax, normalisation, the answer itself)
# needs the resolution, and the runtimes add the bias inside their int8 kernels. A convolution's kernels want int8.
FLOAT_OUTPUTS = ("MatMul", "Gemm")
# Run in int8 wherever they are given it, and change no value.
FLOWING_TYPES = "Clip Flatten MaxPool Pad Relu Reshape Resize Slice Split Squeeze Transpose Unsqueeze"
FLOWING = frozenset(FLOWING_TYPES.split())
# Run in int8 only between layers that give and take it, where they save a way to fp32 and back.
JOINING = frozenset(("Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid"))
GRAPH_OUTPUT = "_QuantizeLinear_Input"  # ONNX Runtime's ending for a graph output's name ahead of its quantize node


def prepared(source: Path) -> onnx.ModelProto:
    """The model with its constants folded, its types inferred, and a name of its own for every node.

    Raises:
        RejectedError: ONNX Runtime cannot read the model.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        with tempfile.TemporaryDirectory() as directory, quiet_root_logger():
            path = Path(directory) / "prepared.onnx"
            quant_pre_process(source, path, skip_symbolic_shape=True)
            model = onnx.load(path)
    except Exception as error:
        raise RejectedError(f"ONNX Runtime cannot prepare the model: {first_line(error)}") from error
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    return model


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions and matrix products whose weights are constant and fp32, which int8 kernels are made for.

    A product of two activations, as in attention, is none: its operands are probabilities and scores that differ from
    example to example, and kernels for it are no faster in int8 on the CPU (measured: ONNX Runtime equal, OpenVINO
    loses its fused attention).

    Raises:
        UnsupportedError: there is none; what computes instead is named.
    """
    from onnx import TensorProto

    constants = {one.name for one in model.graph.initializer if one.data_type == TensorProto.FLOAT}
    joined = _joined_to_constants(model.graph)
    found = [
        node
        for node in model.graph.node
        if node.op_type in LAYERS
        and _has_constants(node, constants)
        and (node.op_type in FLOAT_OUTPUTS or node.output[0] not in joined)
    ]
    if not found:
        others = sorted({node.op_type for node in model.graph.node} & {*LAYERS, "LSTM", "GRU", "RNN", "Einsum"})
        instead = f"; its {', '.join(others)} would stay as they are" if others else ""
        raise UnsupportedError(f"int8: the model has no {', '.join(LAYERS)} with constant fp32 weights{instead}")
    return found


def _has_constants(node: onnx.NodeProto, constants: Collection[str]) -> bool:
    if node.op_type == "ConvTranspose" and any(one.name == "group" and one.i > 1 for one in node.attribute):
        return False  # ONNX Runtime's quantizer gives its bias one scale per group
    return all(name in constants for name in node.input[1:] if name) and node.input[0] not in constants


def _joined_to_constants(graph: onnx.GraphProto) -> set[str]:
    """Tensors that reach a Concat with a constant, such as a class token: in int8, OpenVINO 2026.4 mixes up the scales.

    There, a convolution whose u8 answer went into such a Concat answered with the first channel's bias in all channels.
    """
    constants = {one.name for one in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}

    def is_constant(name: str) -> bool:
        node = producer.get(name)
        spread = node is not None and node.op_type in FLOWING | {"Expand", "Tile"} and is_constant(node.input[0])
        return name in constants or spread

    concats = [node for node in graph.node if node.op_type == "Concat" and any(map(is_constant, node.input))]
    pending = [name for node in concats for name in node.input]
    found: set[str] = set()
    while pending:
        name = pending.pop()
        node = producer.get(name)
        if name not in found and node is not None and node.op_type in FLOWING | JOINING:
            pending.extend(node.input)
        found.add(name)
    return found


def selected(model: onnx.ModelProto, in_int8: Collection[str]) -> frozenset[str]:
    """Names of all nodes to run in int8 if the layers named ``in_int8`` do.

    To these come nodes that are given int8 and only move values, and those nodes with arithmetic whose activations all
    come in int8 and are all taken in int8. So attention masks, normalisations and the residual stream of a transformer
    stay in fp32, and need no range.
    """
    graph = model.graph
    constants = {one.name for one in graph.initializer}
    outputs = {one.name for one in graph.output}
    chosen = {node.name for node in graph.node if node.name in in_int8 or node.op_type in FLOWING | JOINING}
    producer = {name: node for node in graph.node for name in node.output}
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)

    def given(name: str) -> bool:
        node = producer.get(name)
        return node is not None and node.name in chosen and node.op_type not in FLOAT_OUTPUTS

    def taken(name: str) -> bool:
        if name in outputs or name not in takers:
            return False
        return all(
            node.name in chosen and (node.op_type not in FLOWING or all(map(taken, node.output)))
            for node in takers[name]
        )

    def belongs(node: onnx.NodeProto) -> bool:
        if node.op_type in FLOWING:
            return given(node.input[0])
        return all(name not in constants and given(name) for name in node.input) and taken(node.output[0])

    optional = [node for node in graph.node if node.op_type in FLOWING | JOINING]
    while wrong := [node.name for node in optional if node.name in chosen and not belongs(node)]:
        chosen.difference_update(wrong)
    return frozenset(chosen)


def activations(model: onnx.ModelProto, nodes: Collection[str]) -> tuple[str, ...]:
    """Names of the float tensors that the named nodes read and write, in the graph's order: those that need a range."""
    import onnx

    infos = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    floats = {one.name for one in infos if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    names = (name for node in model.graph.node if node.name in nodes for name in (*node.input, *node.output))
    return tuple(dict.fromkeys(name for name in names if name in floats))


def quantized(model: onnx.ModelProto, in_int8: Collection[str], ranges: Ranges) -> onnx.ModelProto:
    """A copy of a prepared model whose layers named ``in_int8`` compute in int8; the same input gives the same bytes.

    Weights are s8 per output channel, activations u8 per tensor: the spelling that ONNX Runtime runs fast on x86.

    Raises:
        RejectedError: ONNX Runtime cannot quantize the model.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    nodes = selected(model, in_int8)
    given = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    try:
        with quiet_root_logger():
            quantizer = QDQQuantizer(
                copy.deepcopy(model),
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=TensorsData(CalibrationMethod.MinMax, given),
                nodes_to_quantize=sorted(nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=[*LAYERS, *sorted(FLOWING | JOINING)],
                extra_options={"OpTypesToExcludeOutputQuantization": list(FLOAT_OUTPUTS)},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
    except Exception as error:
        raise RejectedError(f"int8: ONNX Runtime cannot quantize the model: {first_line(error)}") from error
    made: onnx.ModelProto = quantizer.model.model
    return made


def multiply_accumulates(model: onnx.ModelProto, names: Collection[str], batch: Arrays) -> dict[str, int]:
    """Multiplications and additions of each named layer per example, 1 at least, by the shapes of its tensors."""
    nodes = [node for node in model.graph.node if node.name in names]
    tensors = Probe(model, {name for node in nodes for name in (node.input[0], node.output[0])}).run(batch)
    examples = len(next(iter(batch.values())))
    shapes = {one.name: tuple(one.dims) for one in model.graph.initializer}
    counted = {}
    for node in nodes:
        weight = shapes[node.input[1]]
        transposed = any(one.name == "transB" and one.i for one in node.attribute)
        channels = weight[0] if transposed or node.op_type in ("Conv", "ConvTranspose") else weight[-1]
        applied = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        counted[node.name] = max(1, tensors[applied].size * math.prod(weight) // (channels * examples))
    return counted


def representable(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """What each u8 activation of a quantized model can hold: the values that round to no more than its last step."""
    from onnx import numpy_helper

    constants = {one.name: one for one in model.graph.initializer}
    held = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = (float(numpy_helper.to_array(constants[name])) for name in node.input[1:3])
            held[node.input[0].removesuffix(GRAPH_OUTPUT)] = ((-0.5 - zero) * scale, (255.5 - zero) * scale)
    return held


def told(model: onnx.ModelProto) -> tuple[str, ...]:
    """How many layers of each kind compute in int8, in words; of all there are, in loops and branches too."""
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    counted = (*LAYERS, "LSTM", "GRU", "RNN")
    total = Counter(node.op_type for node in _every_node(model.graph))
    int8 = Counter(node.op_type for node in model.graph.node if set(node.input[:2]) <= dequantized)
    return tuple(f"{int8[kind]} of {total[kind]} {kind} in int8" for kind in counted if total[kind])


def subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that an attribute holds: those of If, Loop and Scan do."""
    return [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in chain.from_iterable(map(subgraphs, node.attribute)):
            yield from _every_node(inner)


def listed(names: Iterable[str], most: int = 3) -> str:
    """Names, of which no more than ``most`` are told."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
