"""The int8-static variant as a PyTorch program: quantize and dequantize nodes where XNNPACK computes in int8."""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from slipway.config import CalibrationParams
from slipway.errors import BadInputError, RejectedError, UnsupportedError, first_line
from slipway.records import Signature
from slipway.variants.calibration import MAX_MOVED_SHARE, MAX_SATURATED, MOVED, is_held_back
from slipway.variants.histogram import Histogram
from slipway.variants.inner_values import Arrays, Batches, numbered, rows
from slipway.variants.qdq import listed
from slipway.variants.ranges import Range, chosen_range
from slipway.variants.root_logger import quiet_root_logger

if TYPE_CHECKING:
    import torch

LAYERS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear")
_FLOAT_LAYERS = ("conv3d", "conv_transpose3d", "lstm", "gru", "rnn_tanh", "rnn_relu")
_RESHAPING = ("flatten", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view")
# The least step. A channel whose weights are all but zero would else get a step so small that its bias, which counts in
# it, is beyond 32 bits. XNNPACKQuantizer's own 2**-12 leaves weights below 0.03 with fewer than 8 bits.
_LEAST_STEP = 2**-16


def quantize_program_static(
    module: torch.nn.Module, signature: Signature, batches: Batches, params: CalibrationParams
) -> tuple[torch.fx.GraphModule, tuple[str, ...]]:
    """An exported GraphModule's int8-static form, and what was quantized, and how well calibrated, in words.

    Weights are s8 per output channel, activations s8 per tensor, where executorch's quantizer for XNNPACK puts them.
    A linear layer that gives an answer takes its input in s8 whose step is found example by example, for only then does
    XNNPACK give the answer in fp32; in s8 it would be cut to what calibration has seen.
    ``batches`` gives the calibration examples, the same each time it is called; every tenth is held back to check the
    ranges on. One batch is in memory at a time. The module given is used up.

    Raises:
        UnsupportedError: executorch is not installed, the module is no exported program, or it has no such layer.
        BadInputError: the calibration data is empty, or lacks an input.
        RejectedError: the model cannot be quantized, or does not run on the calibration data.
    """
    import torch

    if not isinstance(module, torch.fx.GraphModule):
        raise UnsupportedError(
            f"int8-static of PyTorch is made from an exported program, not from {type(module).__name__}; "
            "register the model as pt2, or use an engine that builds from ONNX"
        )
    prepared = _prepared(module, params)
    calibration = _calibrate(prepared, signature, batches, params)
    try:
        with _quietly():
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

            converted = convert_pt2e(prepared)
    except Exception as error:
        raise RejectedError(f"int8: torchao cannot quantize the model: {first_line(error)}") from error
    converted.graph.eliminate_dead_code()
    quantized = torch.fx.GraphModule(converted, converted.graph)  # keeps what the graph uses: no float weights
    return quantized, (*_told(quantized), *calibration)


def _prepared(module: torch.fx.GraphModule, params: CalibrationParams) -> torch.fx.GraphModule:
    """The module with batch-norm folded and an observer at every tensor to be quantized."""
    try:
        with _quietly():
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e import PerChannelMinMaxObserver
            from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
            from torchao.quantization.pt2e.quantizer import ComposableQuantizer
    except ImportError as error:
        raise UnsupportedError(
            "int8-static as a PyTorch program is made by executorch's quantizer, which is not installed; "
            "pip install 'slipway[executorch]'"
        ) from error
    per_channel = PerChannelMinMaxObserver.with_args(eps=_LEAST_STEP)
    found = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    of_weights = dataclasses.replace(found.weight, observer_or_fake_quant_ctr=per_channel)
    on_the_way = dataclasses.replace(found, weight=of_weights)
    found = get_symmetric_quantization_config(is_per_channel=True)
    of_values = dataclasses.replace(
        found.input_activation, observer_or_fake_quant_ctr=_observer().with_args(params=params)
    )
    static = dataclasses.replace(found, input_activation=of_values, output_activation=of_values, weight=of_weights)
    # The first to annotate a layer has it.
    answering = XNNPACKQuantizer().set_global(on_the_way).set_filter_function(_answers)
    quantizer = ComposableQuantizer([answering, XNNPACKQuantizer().set_global(static)])
    try:
        with _quietly():
            prepared: torch.fx.GraphModule = prepare_pt2e(module, quantizer)
    except Exception as error:
        raise RejectedError(f"int8: torchao cannot prepare the model: {first_line(error)}") from error
    return prepared


def _answers(node: torch.fx.Node) -> bool:
    """Whether a linear layer's output is an answer of the model, at most moved into another shape."""

    def kind(one: torch.fx.Node) -> str:
        return next(iter(str(one.target).split(".")[-2:-1]), "")

    def is_answer(one: torch.fx.Node) -> bool:
        return one.op == "output" or (kind(one) in _RESHAPING and any(map(is_answer, one.users)))

    return kind(node) == "linear" and any(map(is_answer, node.users))


@functools.cache
def _observer() -> Any:
    """The class of observers, made when torchao is first needed: it takes seconds to import."""
    import torch
    from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

    class RangeObserver(UniformQuantizationObserverBase):  # type: ignore[misc]  # torchao carries no types
        """Sees an activation's values go by: first to choose its range, then to count those beyond it."""

        def __init__(self, params: CalibrationParams, ch_axis: int | None = None, **kwargs: Any) -> None:
            super().__init__(eps=_LEAST_STEP, **kwargs)
            self.params = params
            self.histogram = Histogram(counting=params.ranges != "minmax")
            self.representable: Range | None = None
            self.beyond = self.checked = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values = x.detach().numpy()
            if not np.isfinite(values).all():
                raise RejectedError("int8: an activation holds NaN or infinity on calibration data: it has no range")
            if self.representable is None:
                self.histogram.add(values)
            else:
                low, high = self.representable
                self.beyond += int(np.count_nonzero((values < low) | (values > high)))
                self.checked += values.size
            return x

        def range(self) -> Range:
            """The range that the values so far ask for."""
            return chosen_range(self.histogram, self.params.ranges, self.params.percentile)

        def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
            low, high = self.range()
            scale, zero = self._calculate_qparams(torch.tensor(low), torch.tensor(high))
            return scale, zero

        def check(self) -> None:
            """From now on, count the values that do not round to within the range."""
            scale, zero = (float(one) for one in self.calculate_qparams())
            self.representable = (self.quant_min - 0.5 - zero) * scale, (self.quant_max + 0.5 - zero) * scale

    return RangeObserver


def _calibrate(
    prepared: torch.fx.GraphModule, signature: Signature, batches: Batches, params: CalibrationParams
) -> tuple[str, ...]:
    """Show nine tenths of the examples to the observers, then the rest; tell whether the ranges are adequate."""
    total = sum(len(positions) for positions, _ in numbered(batches()))
    if total == 0:
        raise BadInputError("int8: the calibration data is empty; set data.calibration")
    observers = _observers(prepared)
    before: dict[str, Range] = {}
    last_tenth = max(1, total - total // 10)
    for positions, batch in numbered(batches()):
        for late in (False, True):
            wanted = ~is_held_back(positions) & ((positions >= last_tenth) == late)
            if wanted.any():
                if late and not before:
                    before = {name: one.range() for name, one in observers.items()}
                _run(prepared, signature, rows(batch, wanted))
    for one in observers.values():
        one.check()
    for positions, batch in numbered(batches()):
        if (wanted := is_held_back(positions)).any():
            _run(prepared, signature, rows(batch, wanted))
    return _adequacy(observers, before, params, total)


def _observers(prepared: torch.fx.GraphModule) -> dict[str, Any]:
    """The observers of activations by what they see; one that several tensors share is called as the first."""
    found: dict[int, tuple[str, Any]] = {}
    for node in prepared.graph.nodes:
        module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _observer()):
            found.setdefault(id(module), (node.args[0].name, module))
    return dict(found.values())


def _run(prepared: torch.fx.GraphModule, signature: Signature, batch: Arrays) -> None:
    import torch

    names = [spec.name for spec in signature.inputs]
    if missing := [name for name in names if name not in batch]:
        raise BadInputError(f"the examples lack input {missing[0]!r}; they have {', '.join(batch)}")
    try:
        with torch.no_grad():
            prepared(*(torch.from_numpy(np.array(batch[name], order="C")) for name in names))
    except RejectedError:
        raise
    except Exception as error:
        raise RejectedError(f"the model does not run on the examples: {first_line(error)}") from error


def _adequacy(
    observers: dict[str, Any], before: dict[str, Range], params: CalibrationParams, total: int
) -> tuple[str, ...]:
    """Whether calibration saw enough, in words and by the bounds of `slipway.variants.calibration`."""
    held_back = total - sum(~is_held_back(np.arange(total)))
    method = params.ranges + f" {params.percentile}" * (params.ranges == "percentile")
    moved = [name for name, one in observers.items() if _moved(before.get(name, one.range()), one.range()) > MOVED]
    notes = [
        f"calibrated on {total - held_back} examples, ranges by {method}",
        f"ranges of {len(moved)} of {len(observers)} activations still moved by more than {MOVED:.0%} in the last tenth"
        + (f": {listed(moved)}" if moved else ""),
    ]
    reasons = ["ranges still moved"] if len(moved) > max(1, MAX_MOVED_SHARE * len(observers)) else []
    if held_back:
        checked = max(1, sum(one.checked for one in observers.values()))
        beyond = sum(one.beyond for one in observers.values()) / checked
        on_purpose = (
            sum(one.histogram.share_outside(*one.range()) * one.checked for one in observers.values()) / checked
        )
        notes.append(f"{beyond:.2%} of values on {held_back} held-back examples lay beyond their range")
        if beyond > 2 * on_purpose + MAX_SATURATED:
            reasons.append("values lay beyond their range")
    else:
        reasons.append("no example was held back")
    if reasons:
        notes.append(f"calibration is inadequate ({', '.join(reasons)}): calibrate on more examples")
    return tuple(notes)


def _moved(before: Range, after: Range) -> float:
    width = after[1] - after[0]
    return (abs(after[0] - before[0]) + abs(after[1] - before[1])) / width if width > 0 else 0.0


def _told(quantized: torch.fx.GraphModule) -> tuple[str, ...]:
    """How many layers of each kind compute in int8, in words.

    Raises:
        UnsupportedError: none does.
    """
    calls = [(str(node.target).split(".")[-2], node) for node in quantized.graph.nodes if "aten." in str(node.target)]
    total = Counter(kind for kind, _ in calls if kind in (*LAYERS, *_FLOAT_LAYERS))
    int8 = Counter(kind for kind, node in calls if kind in LAYERS and all(map(_is_dequantized, node.args[:2])))
    if not int8:
        others = sorted(total)
        instead = f"; its {', '.join(others)} would stay as they are" if others else ""
        raise UnsupportedError(f"int8: the model has no {', '.join(LAYERS)} with constant fp32 weights{instead}")
    return tuple(f"{int8[kind]} of {total[kind]} {kind} in int8" for kind in (*LAYERS, *_FLOAT_LAYERS) if total[kind])


def _is_dequantized(argument: Any) -> bool:
    return "dequantize_per_" in str(getattr(argument, "target", ""))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to oneself what torchao and executorch tell while they are imported: each other's deprecated calls."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_root_logger(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
