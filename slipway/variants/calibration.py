"""Calibration: the ranges of activations over a stream of examples, and whether the examples were enough."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from slipway.config import CalibrationParams
from slipway.errors import BadInputError, RejectedError
from slipway.variants.histogram import Histogram
from slipway.variants.inner_values import Arrays, Batches, Positions, Probe, numbered, rows
from slipway.variants.qdq import listed
from slipway.variants.ranges import Range, chosen_range

if TYPE_CHECKING:
    import onnx

HELD_BACK_EVERY = 10
MOVED = 0.05
MAX_MOVED_SHARE = 0.1
CUT = 0.5
MAX_SATURATED = 0.001
MAX_SATURATED_ONE = 0.01


@dataclass(frozen=True)
class Calibrated:
    """Ranges by activation, and what the report on them needs.

    ``moved`` is by how much of its final width a range grew or shrank in the last tenth of the examples; ``clipped`` is
    the share of the calibrated values that a range leaves out on purpose; ``kept`` is a range's width as a share of
    minmax's.
    """

    params: CalibrationParams
    ranges: Mapping[str, Range]
    moved: Mapping[str, float]
    clipped: Mapping[str, float]
    kept: Mapping[str, float]
    examples: int
    held_back: int


def is_held_back(positions: Positions) -> npt.NDArray[np.bool_]:
    """Which examples calibration does not see: every tenth, so that sorted data is held back evenly."""
    held: npt.NDArray[np.bool_] = positions % HELD_BACK_EVERY == HELD_BACK_EVERY - 1
    return held


def calibrate(
    model: onnx.ModelProto, names: Collection[str], batches: Batches, params: CalibrationParams
) -> Calibrated:
    """The ranges of the activations ``names`` of a prepared model over nine tenths of the examples.

    Memory holds one batch with its activations, and a histogram of fixed size per activation, whatever the number of
    examples: onnxruntime's own histogram calibrators keep every tensor of every batch until the end.

    Raises:
        BadInputError: there are no examples, or they lack an input.
        RejectedError: the model does not run on them, or an activation is not finite.
    """
    total = sum(len(positions) for positions, _ in numbered(batches()))
    if total == 0:
        raise BadInputError("int8: the calibration data is empty; set data.calibration")
    probe = Probe(model, names)
    seen = {name: Histogram(counting=params.ranges != "minmax") for name in names}
    before: dict[str, Range] | None = None
    last_tenth = max(1, total - total // 10)
    for positions, batch in numbered(batches()):
        for late in (False, True):
            wanted = ~is_held_back(positions) & ((positions >= last_tenth) == late)
            if wanted.any():
                if late and before is None:
                    before = _ranges(seen, params)
                _observe(seen, probe.run(rows(batch, wanted)))
    ranges = _ranges(seen, params)
    widest = {name: chosen_range(one, "minmax", params.percentile) for name, one in seen.items()}
    return Calibrated(
        params=params,
        ranges=ranges,
        moved={name: _moved((before or ranges)[name], ranges[name]) for name in names},
        clipped={name: seen[name].share_outside(*ranges[name]) for name in names},
        kept={name: _width(ranges[name]) / _width(widest[name]) if _width(widest[name]) else 1.0 for name in names},
        examples=total - total // HELD_BACK_EVERY,
        held_back=total // HELD_BACK_EVERY,
    )


def _observe(seen: Mapping[str, Histogram], tensors: Arrays) -> None:
    for name, histogram in seen.items():
        if not np.isfinite(tensors[name]).all():
            raise RejectedError(f"int8: activation {name!r} holds NaN or infinity on calibration data: it has no range")
        histogram.add(tensors[name])


def _ranges(seen: Mapping[str, Histogram], params: CalibrationParams) -> dict[str, Range]:
    return {name: chosen_range(one, params.ranges, params.percentile) for name, one in seen.items()}


def _moved(before: Range, after: Range) -> float:
    width = _width(after)
    return (abs(after[0] - before[0]) + abs(after[1] - before[1])) / width if width > 0 else 0.0


def _width(ends: Range) -> float:
    return ends[1] - ends[0]


def adequacy(
    model: onnx.ModelProto, representable: Mapping[str, Range], calibrated: Calibrated, batches: Batches
) -> tuple[str, ...]:
    """Whether calibration saw enough, in words: ranges that still moved, values of held-back examples beyond them.

    Ranges that the method cut to less than half of what was seen are named: they may explain a loss.

    ``model`` is the prepared fp32 model, ``representable`` what each activation that was really quantized can hold.
    The last note warns, if there is reason: a tenth of the ranges (and more than one) still moved; 0.1% of all values
    or 1% of one activation's were saturated, beside twice those clipped on purpose; or no examples were held back.
    """
    names = [name for name in calibrated.ranges if name in representable]
    moved = [name for name in names if calibrated.moved[name] > MOVED]
    method = calibrated.params.ranges + (
        f" {calibrated.params.percentile}" * (calibrated.params.ranges == "percentile")
    )
    calibrated_on = f"calibrated on {calibrated.examples} examples, ranges by {method}"
    if not names:
        return calibrated_on, "no activation of the model was quantized: there is no range to check"
    notes = [
        calibrated_on,
        *_cut(calibrated, names),
        f"ranges of {len(moved)} of {len(names)} activations still moved by more than {MOVED:.0%} in the last tenth"
        + (f": {listed(moved)}" if moved else ""),
    ]
    reasons = ["ranges still moved"] if len(moved) > max(1, MAX_MOVED_SHARE * len(names)) else []
    if calibrated.held_back:
        saturated = _saturated(model, names, representable, batches)
        share = _share(list(saturated.values()))
        worst = max(names, key=lambda name: _share([saturated[name]]))
        notes.append(
            f"{share:.2%} of values on {calibrated.held_back} held-back examples lay beyond their range, "
            f"at most {_share([saturated[worst]]):.2%} ({worst})"
        )
        if _is_saturated(saturated, calibrated):
            reasons.append("values lay beyond their range")
    else:
        reasons.append(f"fewer than {HELD_BACK_EVERY} examples")
    if reasons:
        notes.append(f"calibration is inadequate ({', '.join(reasons)}): calibrate on more examples")
    return tuple(notes)


def _cut(calibrated: Calibrated, names: Collection[str]) -> list[str]:
    cut = sorted((share, name) for name in names if (share := calibrated.kept[name]) < CUT)
    strongly = listed(f"{name} to {share:.0%}" for share, name in cut)
    told = f"ranges of {len(cut)} of {len(names)} activations were cut to less than {CUT:.0%} of what was seen"
    return [f"{told}: {strongly}"] if cut else []


def _saturated(
    model: onnx.ModelProto, names: Collection[str], representable: Mapping[str, Range], batches: Batches
) -> dict[str, tuple[int, int]]:
    """How many values of each activation lay beyond what it can hold, and of how many, on held-back examples."""
    probe = Probe(model, names)
    counts = dict.fromkeys(names, (0, 0))
    for positions, batch in numbered(batches()):
        wanted = is_held_back(positions)
        for name, tensor in (probe.run(rows(batch, wanted)) if wanted.any() else {}).items():
            low, high = representable[name]
            beyond = int(np.count_nonzero((tensor < low) | (tensor > high)))  # type: ignore[operator]  # floats
            counts[name] = counts[name][0] + beyond, counts[name][1] + tensor.size
    return counts


def _share(counts: list[tuple[int, int]]) -> float:
    return sum(beyond for beyond, _ in counts) / max(1, sum(total for _, total in counts))


def _is_saturated(saturated: Mapping[str, tuple[int, int]], calibrated: Calibrated) -> bool:
    """Beyond twice what was clipped on purpose, which few held-back examples may well show by chance."""
    on_purpose = sum(calibrated.clipped[name] * total for name, (_, total) in saturated.items())
    beyond, values = (sum(counts) for counts in zip(*saturated.values(), strict=True))
    one = any(_share([counts]) > 2 * calibrated.clipped[name] + MAX_SATURATED_ONE for name, counts in saturated.items())
    return one or beyond > 2 * on_purpose + MAX_SATURATED * values
