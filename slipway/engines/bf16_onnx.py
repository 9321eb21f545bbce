"""The bf16 variant for runtimes that compute in the types which the file names: casts are written into the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from slipway.errors import UnsupportedError, first_line

if TYPE_CHECKING:
    import onnx

# Sums over many values, powers and exponentials lose too much in eight bits: PyTorch's autocast keeps the same in fp32
# (torch.amp, "CUDA ops that can autocast to float32").
SENSITIVE_TYPES = (
    "CumSum Exp GroupNormalization InstanceNormalization LayerNormalization Log LogSoftmax LpNormalization "
    "MeanVarianceNormalization Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd "
    "ReduceSum ReduceSumSquare RMSNormalization Softmax Softplus"
)
SENSITIVE = frozenset(SENSITIVE_TYPES.split())
UNKNOWN = frozenset(("Celu", "HardSwish", "Mish"))  # in bfloat16 to NVIDIA's parsers (TensorRT-RTX 1.7)
TYPED = frozenset(("Cast", "CastLike"))  # the model's own choice of a type
SUFFIX = "_in_bf16"


def lower(model: onnx.ModelProto) -> tuple[str, ...]:
    """Let a model compute in bfloat16, in place; returns the types of the nodes that stay in fp32.

    These are the types in `SENSITIVE` and `UNKNOWN`, nodes that branch or loop, and operators that take no bfloat16 in
    ONNX. Inputs and outputs keep their type.

    Raises:
        UnsupportedError: the types of the model's tensors cannot be inferred.
    """
    graph = model.graph
    floats = _float_tensors(model)
    nodes = [(node, _computes_in_bfloat16(node, floats)) for node in graph.node]
    stay = [node for node, lowered in nodes if not lowered and floats.intersection(_read(node))]
    wide = {name for node, lowered in nodes if not lowered for name in _read(node)}
    wide |= {one.name for one in graph.output}
    casts = _Casts(graph)
    made: list[onnx.NodeProto] = []
    for node, lowered in nodes:
        if not lowered:
            made.append(node)
            continue
        for position, name in enumerate(node.input):
            if name in floats:
                made += casts.narrow(name)
                node.input[position] = name + SUFFIX
        made.append(node)
        for position, name in enumerate(node.output):
            if name in floats:
                node.output[position] = name + SUFFIX
                made += casts.produced(name, wide)
    del graph.node[:]
    graph.node.extend(made)
    casts.drop_unread()
    del graph.value_info[:]  # tells the types that were
    return tuple(sorted({node.op_type for node in stay} - TYPED))


class _Casts:
    """Which tensors exist in bfloat16 already; constants are narrowed once and for all."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {one.name: one for one in graph.initializer}
        self._narrow: set[str] = set()

    def narrow(self, name: str) -> Iterator[onnx.NodeProto]:
        """What has to stand before the first node that reads ``name`` in bfloat16."""
        import ml_dtypes
        from onnx import TensorProto, helper, numpy_helper

        if name in self._narrow:
            return
        self._narrow.add(name)
        if name in self._constants:
            values = numpy_helper.to_array(self._constants[name]).astype(ml_dtypes.bfloat16)
            self._graph.initializer.append(numpy_helper.from_array(values, name + SUFFIX))
        else:
            yield helper.make_node("Cast", [name], [name + SUFFIX], name=name + SUFFIX, to=TensorProto.BFLOAT16)

    def produced(self, name: str, wide: set[str]) -> Iterator[onnx.NodeProto]:
        """What has to stand behind the node that makes ``name`` in bfloat16, if others read it as it was."""
        from onnx import TensorProto, helper

        self._narrow.add(name)
        if name in wide:
            yield helper.make_node("Cast", [name + SUFFIX], [name], name=f"{name}_in_fp32", to=TensorProto.FLOAT)

    def drop_unread(self) -> None:
        """Leave out the constants that are read in bfloat16 alone."""
        read = {name for node in self._graph.node for name in _read(node)} | {one.name for one in self._graph.output}
        kept = [one for one in self._graph.initializer if one.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def _float_tensors(model: onnx.ModelProto) -> frozenset[str]:
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except Exception as error:
        raise UnsupportedError(f"bf16: the types of the model's tensors are unknown: {first_line(error)}") from error
    infos = (*graph.input, *graph.value_info, *graph.output)
    typed = {one.name for one in infos if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return frozenset(typed | {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT})


def _computes_in_bfloat16(node: onnx.NodeProto, floats: frozenset[str]) -> bool:
    """Whether the node takes a float, is not to stay, and its operator takes bfloat16 wherever it is given one."""
    import onnx

    given = [position for position, name in enumerate(node.input) if name in floats]
    if not given or node.op_type in SENSITIVE | UNKNOWN | TYPED or not onnx.defs.has(node.op_type, node.domain):
        return False
    if any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in node.attribute):
        return False
    formal = onnx.defs.get_schema(node.op_type, node.domain).inputs  # the newest: older ones forgot bfloat16
    return all("tensor(bfloat16)" in formal[min(position, len(formal) - 1)].types for position in given)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            for one in inner.node:
                yield from _read(one)
