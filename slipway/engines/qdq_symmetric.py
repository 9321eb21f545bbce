"""A QDQ file re-spelled as NVIDIA's runtimes want it: symmetric s8 with zero point 0, biases in fp32.

The file that comes in has u8 activations, the spelling that ONNX Runtime runs fast on x86.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
LARGEST = 127  # -128 stays unused, so that both signs reach equally far
NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax"})

Tensor: TypeAlias = npt.NDArray[Any]  # of any of ONNX's types


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the model has quantize nodes."""
    return any(node.op_type == QUANTIZE for node in model.graph.node)


def respell(model: onnx.ModelProto) -> None:
    """Give every activation of a QDQ model s8 with zero point 0, in place; weights are s8 per channel already.

    An activation that holds lo to hi by its scale s and zero point z, lo = (least - z) s and hi = (most - z) s, gets
    the scale max(-lo, hi) / 127: of u8 whose values are all positive, that leaves 7 bits of 8. Where lo is 0, to
    quantize has cut off what is negative, and may stand for a Relu that a quantizer took away: a Relu is put there.
    Constants that are s32 (biases) become fp32; others are rounded to s8 anew.

    Raises:
        UnsupportedError: a tensor is quantized to another type, or with scales that are no constants.
    """
    constants = _Constants(model.graph)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == QUANTIZE:
            kept += _quantize(constants, node, made_by)
        elif node.op_type == DEQUANTIZE:
            kept += _dequantize(constants, node)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    constants.drop_unread()


class _Constants:
    """The constants of a graph by name, as arrays; new ones are added to it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._given = {one.name: one for one in graph.initializer}

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def array(self, node: onnx.NodeProto, position: int) -> Tensor:
        from onnx import numpy_helper

        name = node.input[position]
        if name not in self._given:
            raise UnsupportedError(f"int8: {node.op_type} {node.name!r} takes {name!r}, which is no constant")
        return numpy_helper.to_array(self._given[name])

    def add(self, name: str, values: Tensor) -> str:
        from onnx import numpy_helper

        if name not in self._given:
            self._given[name] = numpy_helper.from_array(np.array(values, order="C"), name)
            self._graph.initializer.append(self._given[name])
        return name

    def drop_unread(self) -> None:
        """Leave out constants that no node reads any more."""
        read = {name for node in _all_nodes(self._graph) for name in node.input} | {o.name for o in self._graph.output}
        kept = [one for one in self._graph.initializer if one.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def _quantize(constants: _Constants, node: onnx.NodeProto, made_by: Mapping[str, str]) -> list[onnx.NodeProto]:
    from onnx import helper

    scale, zero = constants.array(node, 1), _zero_point(constants, node)
    if _is_symmetric(zero):
        return [node]
    low, _ = _ends(scale, zero)
    before: list[onnx.NodeProto] = []
    if not low.any() and made_by.get(node.input[0]) not in NEVER_NEGATIVE:
        name = f"{node.output[0]}_not_negative"
        before = [helper.make_node("Relu", [node.input[0]], [name], name=name)]
        node.input[0] = name
    _retarget(constants, node, _symmetric_scale(scale, zero))
    return [*before, node]


def _dequantize(constants: _Constants, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.input[0] not in constants:
        scale, zero = constants.array(node, 1), _zero_point(constants, node)
        if not _is_symmetric(zero):
            _retarget(constants, node, _symmetric_scale(scale, zero))
        return [node]
    values, scale = constants.array(node, 0), constants.array(node, 1)
    zero = _zero_point(constants, node) if _has_zero_point(node) else np.zeros((), values.dtype)
    if values.dtype == np.int8 and _is_symmetric(zero):
        return [node]
    axis = _axis(node)
    real = ((values.astype(np.float64) - _along(zero, values, axis)) * _along(scale, values, axis)).astype(scale.dtype)
    if values.dtype == np.int32:
        constants.add(node.output[0], real)
        return []
    step = _symmetric_scale(scale, zero)
    rounded = np.rint(real / _along(step, values, axis)).clip(-LARGEST, LARGEST).astype(np.int8)
    node.input[0] = constants.add(f"{node.input[0]}_s8", rounded)
    _retarget(constants, node, step)
    return [node]


def _has_zero_point(node: onnx.NodeProto) -> bool:
    return len(node.input) == 3 and bool(node.input[2])


def _zero_point(constants: _Constants, node: onnx.NodeProto) -> Tensor:
    if not _has_zero_point(node):
        raise UnsupportedError(f"int8: {node.op_type} {node.name!r} has no zero point, which would tell its type")
    zero = constants.array(node, 2)
    if zero.dtype not in (np.uint8, np.int8, np.int32):
        raise UnsupportedError(f"int8: {node.op_type} {node.name!r} has values of type {zero.dtype}, not int8")
    return zero


def _is_symmetric(zero: Tensor) -> bool:
    return zero.dtype == np.int8 and not zero.any()


def _ends(scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    bounds = np.iinfo(zero.dtype)
    shift = zero.astype(np.float64)
    return (bounds.min - shift) * scale, (bounds.max - shift) * scale


def _symmetric_scale(scale: Tensor, zero: Tensor) -> Tensor:
    low, high = _ends(scale, zero)
    largest = np.maximum(-low, high) / LARGEST
    return np.maximum(largest, float(np.finfo(scale.dtype).tiny)).astype(scale.dtype)


def _retarget(constants: _Constants, node: onnx.NodeProto, scale: Tensor) -> None:
    """Let the node take ``scale`` and zero point 0, under names of their own: others may read the ones it had."""
    name = node.input[1]
    inputs = [node.input[0], constants.add(f"{name}_s8", scale)]
    inputs.append(constants.add(f"{name}_s8_zero_point", np.zeros(scale.shape, np.int8)))
    del node.input[:]
    node.input.extend(inputs)
    for position in reversed([i for i, one in enumerate(node.attribute) if one.name == "output_dtype"]):
        del node.attribute[position]


def _axis(node: onnx.NodeProto) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "axis"), 1)


def _along(parameter: Tensor, values: Tensor, axis: int) -> Tensor:
    """A scale or zero point per tensor or per channel, shaped to be multiplied with ``values``."""
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * values.ndim
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                nodes += _all_nodes(inner)
    return nodes
