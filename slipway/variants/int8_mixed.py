"""The int8-mixed variant: int8-static, with as many layers back in fp32 as its answers need, and no more."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slipway.config import CalibrationParams
from slipway.errors import BadInputError, RejectedError, UnsupportedError
from slipway.variants.calibration import HELD_BACK_EVERY, adequacy, calibrate, is_held_back
from slipway.variants.inner_values import Arrays, Batches, Probe, numbered, rows
from slipway.variants.layer_times import LayerTimes, Timer, layer_times
from slipway.variants.qdq import (
    Ranges,
    activations,
    layers,
    listed,
    multiply_accumulates,
    prepared,
    quantized,
    representable,
    selected,
    told,
)

if TYPE_CHECKING:
    import onnx

# The accuracy that is lost is at most the share of predictions that change: the default of accuracy.max_drop.
MAX_DISAGREEMENT = 0.01
MAX_ERROR = 0.05  # of outputs that are no classes, and of all where too few examples judge the classes
PROBED_EXAMPLES = 32
# No difference among 300 examples shows that fewer than 1% differ, at 95% (rule of three: Hanley & Lippman-Hand, "If
# nothing goes wrong, is everything all right?", JAMA 1983). No more than these judge: they are in memory.
JUDGED_EXAMPLES = 300


@dataclass(frozen=True)
class Answers:
    """How near a model's answers are to fp32's, on ``examples`` that calibration held back.

    ``agreement`` is the share of examples with the same top-1 class, by the first output; None where it holds no
    classes. An error is an output's root-mean-square difference from fp32's, relative to fp32's root mean square:
    ``error`` is the worst output's, ``error_beside`` the worst one's of those that hold no classes.
    """

    examples: int
    error: float
    error_beside: float
    agreement: float | None

    @property
    def are_near(self) -> bool:
        """Whether they are near enough."""
        bounded = self.error if self.are_few else self.error_beside
        return bounded <= MAX_ERROR and (self.agreement is None or self.agreement >= 1 - MAX_DISAGREEMENT)

    @property
    def are_few(self) -> bool:
        """Whether the examples are too few for their classes to show that at most 1% differ."""
        return self.agreement is not None and self.examples < JUDGED_EXAMPLES

    def __str__(self) -> str:
        """The figures in words."""
        if self.agreement is None:
            return f"error {self.error:.2%}"
        beside = f" ({self.error_beside:.2%} beside the classes)" if self.error_beside else ""
        return f"{self.agreement:.2%} top-1 agreement, error {self.error:.2%}{beside}"


@dataclass(frozen=True)
class Restored:
    """One point of the way back: the layers in fp32 so far, what they cost and how near the answers are.

    ``fp32_share`` is of the model's multiply-accumulates. ``latency_us`` estimates a call: the measured one of int8,
    and what each of these layers takes more in fp32; None where no engine told it.
    """

    layers: int
    layer: str | None
    fp32_share: float
    answers: Answers
    latency_us: float | None = None

    def __str__(self) -> str:
        """The point in words."""
        layer = f" ({self.layer})" if self.layer else ""
        latency = f", about {self.latency_us:.0f} us a call" if self.latency_us is not None else ""
        return (
            f"{self.layers} layers in fp32{layer}: {self.answers}, "
            f"{self.fp32_share:.1%} of multiply-accumulates in fp32{latency}"
        )


@dataclass(frozen=True)
class Mixed:
    """What was made, in words, and the way to it."""

    notes: tuple[str, ...]
    path: tuple[Restored, ...]


def quantize_onnx_mixed(
    source: Path, out: Path, batches: Batches, params: CalibrationParams, timer: Timer | None = None
) -> Mixed:
    """Write an fp32 ONNX file's int8-mixed form.

    Calibrated once. Each layer's sensitivity is the squared error of the outputs if it alone runs in int8 (errors of
    single layers are small and add up: Wu et al., "Mixed precision quantization", 2018). Then layers go back to fp32,
    the most error per microsecond first that ``timer`` measures it to lose, until on the held-back examples at most 1%
    of the top-1 classes differ from fp32's and the error of outputs that are no classes is at most 5%. Fewer than 300
    examples cannot show the 1%: then the error of every output is bounded. Without ``timer``, or where it cannot tell,
    multiply-accumulates take the place of the microseconds, and the notes say so.

    Raises:
        UnsupportedError: the model has no convolution or matrix product with constant weights.
        BadInputError: there are too few calibration examples to hold any back, or they lack an input.
        RejectedError: no layer can stay in int8; or ONNX Runtime cannot quantize or run the model.
    """
    model = prepared(source)
    found = [node.name for node in layers(model)]
    calibrated = calibrate(model, activations(model, selected(model, found)), batches, params)
    if not calibrated.held_back:
        raise BadInputError(
            f"int8-mixed needs {HELD_BACK_EVERY} calibration examples or more, to hold a tenth back; "
            f"it found {calibrated.examples}"
        )
    held = _Outputs(model, list(_first(batches, JUDGED_EXAMPLES, held_back=True)))
    path, ranked_by = _way_back(model, found, calibrated.ranges, batches, held, timer)
    if not path[-1].answers.are_near:
        raise RejectedError(f"int8-mixed: no layer can stay in int8; the last try had {path[-1]}")
    restored = [point.layer for point in path if point.layer]
    made = quantized(model, set(found) - set(restored), calibrated.ranges)
    out.write_bytes(made.SerializeToString(deterministic=True))
    way = f"{len(restored)} of {len(found)} layers back in fp32" + (f": {listed(restored)}" if restored else "")
    judged = [f"{way}; judged on {held.examples} held-back examples", *ranked_by]
    if path[-1].answers.are_few:
        judged.append(
            f"{held.examples} held-back examples cannot show {MAX_DISAGREEMENT:.0%}: "
            f"the error of the outputs (at most {MAX_ERROR:.0%}) decides too"
        )
    report = adequacy(model, representable(made), calibrated, batches)
    return Mixed((*told(made), *judged, *map(str, path), *report), path)


def _way_back(
    model: onnx.ModelProto,
    names: Sequence[str],
    ranges: Ranges,
    batches: Batches,
    held: _Outputs,
    timer: Timer | None,
) -> tuple[tuple[Restored, ...], tuple[str, ...]]:
    """Points from all layers in int8 to the first that is near enough, or to the last that has a layer in int8.

    And by what the layers were ranked, in words; nothing where none had to go back.
    """
    whole = quantized(model, names, ranges)
    answers = held.compared(whole)
    if answers.are_near:
        return (Restored(0, None, 0.0, answers),), ()
    sample = list(_first(batches, PROBED_EXAMPLES, held_back=False))
    counts = multiply_accumulates(model, names, sample[0])
    times, ranked_by = _timed(model, names, whole, timer)
    outputs = _Outputs(model, sample)
    errors = {name: outputs.compared(quantized(model, [name], ranges)).error ** 2 for name in names}
    order = by_error_per_cost(errors, times.costs() if times else counts)
    path: list[Restored] = []
    for count in range(len(order)):
        restored = order[:count]
        if count:
            answers = held.compared(quantized(model, order[count:], ranges))
        share = sum(counts[name] for name in restored) / sum(counts.values())
        latency_us = times.estimated_us(restored) if times else None
        path.append(Restored(count, restored[-1] if restored else None, share, answers, latency_us))
        if answers.are_near:
            break
    return tuple(path), (ranked_by,)


def _timed(
    model: onnx.ModelProto, names: Collection[str], int8: onnx.ModelProto, timer: Timer | None
) -> tuple[LayerTimes | None, str]:
    """What the layers' way back costs in time, if that can be told, and by what they are ranked, in words."""
    by_count = "layers ranked by error per multiply-accumulate, not per microsecond"
    if timer is None:
        return None, f"{by_count}: no engine was timed"
    try:
        with tempfile.TemporaryDirectory() as directory:
            files = {Path(directory, "fp32.onnx"): model, Path(directory, "int8.onnx"): int8}
            for path, one in files.items():
                path.write_bytes(one.SerializeToString(deterministic=True))
            times = layer_times(model, names, timer, *files)
    except UnsupportedError as reason:
        return None, f"{by_count}: {reason}"
    told = f"a call takes {times.fp32_us:.0f} us in fp32, {times.int8_us:.0f} us in int8"
    return times, f"layers ranked by error per microsecond of {times.by}; {told}"


def by_error_per_cost(errors: Mapping[str, float], costs: Mapping[str, float]) -> list[str]:
    """The layers by the squared error that each causes alone per unit of what its way back costs, the most first."""
    return sorted(errors, key=lambda name: errors[name] / costs[name], reverse=True)


def _first(batches: Batches, examples: int, *, held_back: bool) -> Iterator[Arrays]:
    """As many of the examples that calibration held back, or of those it saw, in batches."""
    seen = 0
    for positions, batch in numbered(batches()):
        wanted = is_held_back(positions) == held_back
        wanted &= np.cumsum(wanted) + seen <= examples
        if wanted.any():
            yield rows(batch, wanted)
        seen += int(wanted.sum())
        if seen == examples:
            return


class _Outputs:
    """The fp32 model's outputs on some examples, and how near another model's are."""

    def __init__(self, model: onnx.ModelProto, batches: Sequence[Arrays]) -> None:
        self.examples = sum(len(next(iter(batch.values()))) for batch in batches)
        self._batches = batches
        self._names = [one.name for one in model.graph.output]
        probe = Probe(model, self._names, optimised=True)
        self._expected = [probe.run(batch) for batch in batches]

    def compared(self, model: onnx.ModelProto) -> Answers:
        """How near its outputs are."""
        probe = Probe(model, self._names, optimised=True)
        found = [probe.run(batch) for batch in self._batches]
        agreement = self._agreement(found)
        errors = [self._error(found, name) for name in self._names]
        beside = errors if agreement is None else errors[1:]
        return Answers(self.examples, max(errors), max(beside, default=0.0), agreement)

    def _error(self, found: Sequence[Arrays], name: str) -> float:
        squares = difference = 0.0
        for expected, answer in zip(self._expected, found, strict=True):
            wanted = expected[name].astype(np.float64)
            squares += float((wanted**2).sum())
            difference += float(((answer[name].astype(np.float64) - wanted) ** 2).sum())
        return float(np.sqrt(difference / squares)) if squares else float(difference > 0)

    def _agreement(self, found: Sequence[Arrays]) -> float | None:
        """Over the first output, where it has a row of scores for each example."""
        name = self._names[0]
        if self._expected[0][name].ndim != 2 or self._expected[0][name].shape[1] < 2:
            return None
        same = [
            expected[name].argmax(1) == answer[name].argmax(1)
            for expected, answer in zip(self._expected, found, strict=True)
        ]
        return float(np.concatenate(same).mean())
