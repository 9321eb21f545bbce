"""Fake quantization: a PyTorch graph that computes in fp32 what its ONNX file computes in int8, and can learn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway.errors import UnsupportedError
from slipway.variants.qdq import GRAPH_OUTPUT

if TYPE_CHECKING:
    import onnx
    import torch

LARGEST_WEIGHT = 127  # s8, symmetric
LEAST_STRETCH = 0.05
# By operator: the position of its data, the position of its weights, and the weights' axis of output channels.
WEIGHTED = {
    "conv1d": (0, 1, 0),
    "conv2d": (0, 1, 0),
    "conv3d": (0, 1, 0),
    "convolution": (0, 1, 0),
    "conv_transpose1d": (0, 1, 1),
    "conv_transpose2d": (0, 1, 1),
    "conv_transpose3d": (0, 1, 1),
    "linear": (0, 1, 0),
    "matmul": (0, 1, -1),
    "mm": (0, 1, -1),
    "addmm": (1, 2, -1),
}
TRANSPOSED = 6  # the argument of aten.convolution that makes it a transposed one
UNCHANGING = ("alias", "clone", "contiguous", "detach", "dropout")  # no nodes of the file
RESHAPING = ("t", "transpose", "permute", "numpy_T", "unsqueeze", "squeeze", "view", "reshape", *UNCHANGING)


@dataclass(frozen=True)
class Range:
    """What one scale of the int8 file covers: the parameter that stretches its two ends, and the values it belongs to.

    Values that are only moved, as by a pooling, share the scale of what they were made from.
    """

    low: float
    high: float
    stretch: torch.nn.Parameter
    values: tuple[str, ...]

    def learnt(self) -> tuple[float, float]:
        """The range, each end stretched."""
        below, above = self.stretch.tolist()
        return self.low * below, self.high * above


@dataclass(frozen=True)
class Inserted:
    """The ranges that a graph was given, and how many of the file's values and of its layers it rounds."""

    ranges: tuple[Range, ...]
    values: int
    weights: int


def insert(graph: torch.fx.GraphModule, made: onnx.ModelProto, nodes: Mapping[str, str]) -> Inserted:
    """Round in ``graph`` what the int8 file ``made`` of it rounds: its u8 activations, and the weights they meet.

    A node is called as the file's value is, which the exporter keeps to, but for those that ``nodes`` tells (value to
    node: inputs and outputs). Weights are rounded per output channel by their present magnitude. Batch normalisation
    behind a layer changes nothing about that: it scales a channel and its step alike.

    Raises:
        UnsupportedError: no layer of the file is found in the graph.
    """
    import torch

    by_name = {node.name: node for node in graph.graph.nodes}
    ranges, rounded = [], set()
    for number, (scale, zero, values) in enumerate(_scales(made).values()):
        found = tuple(value for value in values if nodes.get(value, value) in by_name)
        if not found:
            continue
        name = f"stretch_{number}"
        graph.register_parameter(name, torch.nn.Parameter(torch.ones(2)))
        ranges.append(Range(-zero * scale, (255 - zero) * scale, getattr(graph, name), found))
        for value in found:
            rounded.add(_round_activation(graph.graph, by_name[nodes.get(value, value)], name, ranges[-1]))
    weighted = [node for node in graph.graph.nodes if _round_weight(graph, node, rounded)]
    if not weighted:
        raise UnsupportedError("int8-qat: no layer of the exported file is found in the PyTorch graph; use int8-static")
    graph.recompile()
    return Inserted(tuple(ranges), len(rounded), len(weighted))


def _scales(made: onnx.ModelProto) -> dict[str, tuple[float, float, tuple[str, ...]]]:
    """By the name of a scale: the scale, its zero point, and the values that are rounded to it."""
    from onnx import numpy_helper

    constants = {one.name: one for one in made.graph.initializer}
    found: dict[str, tuple[float, float, tuple[str, ...]]] = {}
    for node in made.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = (float(numpy_helper.to_array(constants[name])) for name in node.input[1:3])
            *_, before = found.get(node.input[1], ((),))
            found[node.input[1]] = scale, zero, (*before, node.input[0].removesuffix(GRAPH_OUTPUT))
    return found


def _round_activation(graph: torch.fx.Graph, node: torch.fx.Node, stretch: str, covered: Range) -> torch.fx.Node:
    """Have all that reads ``node`` read it rounded; guards on the inputs go on to look at the inputs themselves."""
    last = [one for one in graph.nodes if one.op == "placeholder"][-1]
    with graph.inserting_after(last if node.op == "placeholder" else node):
        parameter = graph.get_attr(stretch)
    with graph.inserting_after(parameter):
        made = graph.call_function(rounded_activation, (node, parameter, covered.low, covered.high))
    node.replace_all_uses_with(made, lambda user: user is not made and user.op != "call_module")
    return made


def _round_weight(module: torch.fx.GraphModule, node: torch.fx.Node, rounded: set[torch.fx.Node]) -> bool:
    places = WEIGHTED.get(_kind(node)) if node.op == "call_function" else None
    if places is None or not isinstance(weight := node.args[places[1]], type(node)):
        return False
    data, position, axis = node.args[places[0]], places[1], places[2]
    if _origin(data, UNCHANGING) not in rounded or _origin(weight, RESHAPING).op != "get_attr":
        return False
    if _kind(node) == "convolution" and node.args[TRANSPOSED]:
        axis = 1
    with module.graph.inserting_before(node):
        made = module.graph.call_function(rounded_weight, (node.args[position], axis))
    node.update_arg(position, made)
    return True


def _kind(node: torch.fx.Node) -> str:
    """``conv2d`` of ``aten.conv2d.default``."""
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet, "__name__", "")


def _origin(node: Any, through: Collection[str]) -> Any:
    """What a value was before operators of the kinds ``through``."""
    while node.op == "call_function" and _kind(node) in through:
        node = node.args[0]
    return node


def rounded_activation(x: torch.Tensor, stretch: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """``x`` rounded to u8 over [low, high], each end stretched; the ends learn, too.

    Rounding passes gradients on as they are, and clipping those of the ends (Esser et al., "Learned step size
    quantization", ICLR 2020; Bhalgat et al., "LSQ+", 2020, for ranges that are not symmetric).
    """
    import torch

    ends = stretch * stretch.new_tensor((low, high))
    scale = ((ends[1] - ends[0]) / 255).reshape(1)
    zero = (-ends[0] / scale).reshape(1)
    answer: torch.Tensor = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, 0, 255, 1.0)
    return answer


def rounded_weight(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """``weight`` rounded to s8, with a scale for each index of ``axis``."""
    import torch

    axis %= weight.dim()
    others = [one for one in range(weight.dim()) if one != axis]
    scales = (weight.detach().abs().amax(others) / LARGEST_WEIGHT).clamp(min=1e-12)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, axis, -LARGEST_WEIGHT, LARGEST_WEIGHT)
