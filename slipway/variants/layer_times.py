"""What each layer of a model costs an engine, by the names that its profiler gives to what it ran."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from slipway.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx

# What a runtime puts before or behind a node's name when it rewrites the node: ONNX Runtime, and OpenVINO beside it.
FUSED = "fused "
REWRITTEN = ("_token_", "/")
BLOCKED = "_nchwc"  # behind the name of the value that a convolution in ONNX Runtime's blocked layout answers with
LEAST_US = 0.1  # a tenth of what the profilers resolve: what is lost by less is lost by nothing


@dataclass(frozen=True)
class Measured:
    """Mean microseconds of everything that one call of a file executed, by name; ``by`` says who told them."""

    by: str
    us: Mapping[str, float]


Timer: TypeAlias = Callable[[Path], Measured]  # raises UnsupportedError where no engine tells


@dataclass(frozen=True)
class LayerTimes:
    """Microseconds that each layer takes more in fp32 than in int8, and those of a call with all layers in int8."""

    by: str
    lost_us: Mapping[str, float]
    int8_us: float
    fp32_us: float

    def costs(self) -> dict[str, float]:
        """What each layer's way back costs; never nothing, so that it can be divided by."""
        return {name: max(lost, LEAST_US) for name, lost in self.lost_us.items()}

    def estimated_us(self, restored: Collection[str]) -> float:
        """A call with the layers ``restored`` in fp32: layers by themselves, without what joins them."""
        return self.int8_us + sum(self.lost_us[name] for name in restored)


def layer_times(model: onnx.ModelProto, names: Collection[str], timer: Timer, fp32: Path, int8: Path) -> LayerTimes:
    """Time the layers ``names`` of ``model`` in its fp32 file and in the int8 file made of it.

    Raises:
        UnsupportedError: no engine tells, or its profile lacks a layer; the first one is named.
    """
    slow, quick = timer(fp32), timer(int8)
    each = [(by_layer(model, names, one.us), kind) for one, kind in ((slow, "fp32"), (quick, "int8"))]
    for found, kind in each:
        missing = [name for name in names if name not in found]
        if missing:
            raise UnsupportedError(f"the profile of {slow.by} does not tell layer {missing[0]} in {kind}")
    (in_fp32, _), (in_int8, _) = each
    lost = {name: in_fp32[name] - in_int8[name] for name in names}
    return LayerTimes(slow.by, lost, sum(quick.us.values()), sum(slow.us.values()))


def by_layer(model: onnx.ModelProto, names: Collection[str], us: Mapping[str, float]) -> dict[str, float]:
    """Microseconds of the layers ``names`` that a profile tells, of those it does.

    A runtime calls what it made of a layer by the layer's name with something before or behind it, or by the value that
    it answers with, which is that of what was fused into the layer: then the one layer behind that value is meant.
    """
    producer = {value: node for node in model.graph.node for value in node.output}
    found: dict[str, float] = {}
    values: dict[str, float] = {}
    for name, time_us in us.items():
        layer = _named(name, names)
        if layer is not None:
            found[layer] = found.get(layer, 0.0) + time_us
        elif name.removesuffix(BLOCKED) in producer:
            values[name.removesuffix(BLOCKED)] = time_us
    for value, time_us in values.items():
        behind = _behind(value, producer, values, names) - set(found)
        if len(behind) == 1:
            found[behind.pop()] = time_us
    return found


def _named(name: str, layers: Collection[str]) -> str | None:
    name = name.removeprefix(FUSED)
    if name in layers:
        return name
    return next((layer for layer in layers for mark in REWRITTEN if name.startswith(layer + mark)), None)


def _behind(
    value: str, producer: Mapping[str, onnx.NodeProto], told: Collection[str], layers: Collection[str]
) -> set[str]:
    """The layers from which ``value`` comes by other operators alone, and by no other value that is told itself."""
    found: set[str] = set()
    seen, pending = {value}, [value]
    while pending:
        node = producer.get(pending.pop())
        if node is None:
            continue
        if node.name in layers:
            found.add(node.name)
            continue
        new = [one for one in node.input if one not in seen and one not in told]
        seen.update(new)
        pending += new
    return found
