"""An ONNX file with quantize and dequantize nodes, run by PyTorch in fp32: its own fake-quantized reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

Attributes = dict[str, Any]


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """What a file with one input answers first, computed node by node.

    A QuantizeLinear rounds as ``torch.fake_quantize_per_tensor_affine`` does and stays a float, which the
    DequantizeLinear behind it hands on; that of a constant gives the constant's value.

    Raises:
        KeyError: the file has an operator that this knows nothing of.
    """
    graph = onnx.load(path).graph
    values = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    constants = set(values)
    values[graph.input[0].name] = torch.from_numpy(images)
    for node in graph.node:
        given = [values[name] if name else None for name in node.input]
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            values[node.output[0]] = given[0]
        else:
            values[node.output[0]] = OPERATORS[node.op_type](attributes, *given)
    return values[graph.output[0].name].numpy()


def _quantize(_: Attributes, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    limits = torch.iinfo(zero.dtype)
    return torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), limits.min, limits.max)


def _dequantize(
    attributes: Attributes, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None
) -> torch.Tensor:
    steps = x.double() if zero is None else x.double() - _along(zero, x, attributes)
    return (steps * _along(scale, x, attributes)).float()


def _along(one: torch.Tensor, x: torch.Tensor, attributes: Attributes) -> torch.Tensor:
    """A value per tensor, or per index of the axis of channels, in the shape of ``x``."""
    if one.numel() == 1:
        return one.double().reshape(())
    return one.double().reshape([-1 if axis == attributes.get("axis", 1) % x.dim() else 1 for axis in range(x.dim())])


def _conv(attributes: Attributes, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    assert attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    padded = functional.pad(x, (left, right, top, bottom))
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    return functional.conv2d(padded, weight, bias, strides, 0, dilations, attributes.get("group", 1))


def _gemm(attributes: Attributes, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    assert attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
    assert not attributes.get("transA", 0)
    return x @ (weight.T if attributes.get("transB", 0) else weight) + bias


def _mean(attributes: Attributes, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    return x.mean(axes.tolist(), keepdim=bool(attributes.get("keepdims", 1)))


OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": lambda _, one, other: one + other,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Gemm": _gemm,
    "QuantizeLinear": _quantize,
    "ReduceMean": _mean,
    "Relu": lambda _, x: torch.relu(x),
}
