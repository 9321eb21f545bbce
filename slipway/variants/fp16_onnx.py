"""The fp16 variant in ONNX: float16 weights and tensors, except where float16 is too small or too coarse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slipway.errors import RejectedError, UnsupportedError, first_line
from slipway.variants.inner_values import Arrays, Probe
from slipway.variants.qdq import activations, listed, prepared, subgraphs

if TYPE_CHECKING:
    import onnx

LARGEST = float(np.finfo(np.float16).max)
# Sums over many values, powers and exponentials lose too much in ten bits: PyTorch's autocast keeps the same in fp32
# (torch.amp, "CUDA ops that can autocast to float32").
SENSITIVE_TYPES = (
    "CumSum Exp GroupNormalization InstanceNormalization LayerNormalization Log LogSoftmax LpNormalization "
    "MeanVarianceNormalization Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd "
    "ReduceSum ReduceSumSquare RMSNormalization Softmax Softplus"
)
SENSITIVE = frozenset(SENSITIVE_TYPES.split())


def reduce_onnx(source: Path, out: Path, sample: Arrays) -> tuple[str, ...]:
    """Write an fp32 ONNX file's fp16 form and return what stayed in fp32, in words; inputs and outputs keep their type.

    Nodes stay in fp32 that read or write a value beyond float16's range, on the ``sample`` or among their constants,
    and those of the types in `SENSITIVE`.

    Raises:
        UnsupportedError: the model branches or loops.
        RejectedError: the model cannot be converted, or is no valid ONNX afterwards.
    """
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = prepared(source)
    if branches := sorted({node.op_type for node in model.graph.node if any(map(subgraphs, node.attribute))}):
        raise UnsupportedError(
            f"fp16: no converter of ONNX reaches into {', '.join(branches)}; use torch or torchscript, "
            "or write the model without control flow"
        )
    beyond = _beyond(model, sample)
    try:
        made = convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *SENSITIVE],
            node_block_list=[node.name for node in beyond],
        )
        _join_casts(made)
        _sort(made)
        onnx.checker.check_model(made, full_check=True)
        Probe(made, [one.name for one in made.graph.output]).run(sample)
    except Exception as error:
        raise RejectedError(f"fp16: the model cannot be converted: {first_line(error)}") from error
    out.write_bytes(made.SerializeToString(deterministic=True))
    return _told(made, beyond)


def _beyond(model: onnx.ModelProto, sample: Arrays) -> list[onnx.NodeProto]:
    """Nodes that read or write a value whose magnitude float16 cannot hold."""
    from onnx import TensorProto, numpy_helper

    names = activations(model, {node.name for node in model.graph.node})
    large = {name for name, tensor in Probe(model, names).run(sample).items() if _is_large(tensor)}
    constants = (one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT)
    large |= {one.name for one in constants if _is_large(numpy_helper.to_array(one))}
    return [node for node in model.graph.node if large.intersection((*node.input, *node.output))]


def _is_large(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return bool(finite.size and np.abs(finite).max() > LARGEST)


def _join_casts(model: onnx.ModelProto) -> None:
    """Hand fp32 on between nodes in fp32: the converter casts it to float16 and back, where it may overflow."""
    nodes, ends = model.graph.node, {one.name for one in model.graph.output}
    # The converter's own casts, by the names it gives them: a cast of the model may come from another type than fp32.
    narrowed = {
        node.output[0]: node.input[0]
        for node in nodes
        if node.name.endswith("_cast_to_fp16_node") or node.name.startswith("graph_input_cast")
    }
    wide = {}
    for node in nodes:
        added = node.name.endswith("_cast_to_fp32_node") or node.name.startswith("graph_output_cast")
        if added and node.input[0] in narrowed:
            node.op_type, node.input[0] = "Identity", narrowed[node.input[0]]
            del node.attribute[:]
            if node.output[0] not in ends:
                wide[node.output[0]] = node.input[0]
    for node in nodes:
        node.input[:] = [wide.get(name, name) for name in node.input]
    read = {name for node in nodes for name in node.input} | ends
    unread = [node for node in nodes if node.output[0] in wide or (node.output[0] in narrowed.keys() - read)]
    for node in unread:
        nodes.remove(node)


def _sort(model: onnx.ModelProto) -> None:
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(model).topological_sort()


def _told(model: onnx.ModelProto, beyond: Iterable[onnx.NodeProto]) -> tuple[str, ...]:
    kept = Counter(node.op_type for node in model.graph.node if node.op_type in SENSITIVE)
    notes = []
    if kept:
        notes.append(
            "kept in fp32 for precision: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kept.items()))
        )
    if names := [node.name for node in beyond]:
        notes.append(f"kept in fp32 because values exceed {LARGEST:.0f}: {listed(names)}")
    return tuple(notes) or ("all of it in fp16",)
