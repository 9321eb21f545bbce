"""Accuracy: compare two sets of predictions example by example, whatever their size, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from slipway.decisions.paired import BOOTSTRAP, bca_bounds, bca_statistic_bounds, tango_bounds
from slipway.errors import BadInputError, RejectedError
from slipway.measure.arrays import CHUNK_BYTES, Array, Arrays, Joined
from slipway.measure.classes import are_classes, by_class
from slipway.measure.formulas import Indices, Kept, Scores
from slipway.measure.metrics import Metric
from slipway.measure.parity import ParityAccumulator, top1
from slipway.measure.predictions import PredictionsReader
from slipway.records import Accuracy, Parity

Value = TypeVar("Value", float, Scores)


@dataclass(frozen=True)
class Comparison:
    """How a candidate compares with the reference.

    ``scores`` holds the metric example by example, as arrays (n,): the number of the ``example`` in the data set, what
    ``reference`` and ``candidate`` scored, and the ``target`` where it is one value. None for a "set" metric. Two
    candidates a and b that answered the same examples are compared later, without running again, by
    ``bca_bounds(a["candidate"] - b["candidate"], confidence)``.
    """

    accuracy: Accuracy
    parity: Parity
    scores: Arrays | None


def compare(metric: Metric, reference: Path, candidate: Path, confidence: float) -> Comparison:
    """The candidate's accuracy on the first output, paired per example with the reference's, and parity of all outputs.

    Both are files of predictions, read some examples at a time. What is held of them all is what the metric keeps (one
    number per example, for most), the target where it is one value, and the answers where they are classes. The bounds,
    each one-sided at ``confidence``, are Tango's score interval for 0/1 scores and a paired BCa bootstrap for all
    others.

    Raises:
        BadInputError: outputs and target do not fit the metric, or the reference itself answers NaN.
        RejectedError: the candidate answers NaN, or other names or shapes.
    """
    with PredictionsReader(reference) as expected, PredictionsReader(candidate) as found:
        require_alike(expected.outputs, found.outputs)
        pairs = _Pairs(metric, expected.rows)
        step = max(1, CHUNK_BYTES // max(expected.row_bytes, found.row_bytes))
        for start in range(0, expected.rows, step):
            rows = min(step, expected.rows - start)
            pairs.add(*expected.answers(rows), found.answers(rows)[0])
    return pairs.result(confidence)


def kept_of_reference(metric: Metric, outputs: Array, target: Array) -> Kept:
    """What ``metric`` keeps of the reference's answers; a fault in them is nobody's but the model's or the data's.

    Raises:
        BadInputError: outputs and target do not fit the metric, or the outputs hold NaN.
    """
    try:
        return metric.kept(outputs, target)
    except RejectedError as error:
        raise BadInputError(f"the reference itself cannot be scored: {error}; mend the model or the data") from error


def require_alike(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    """Check a candidate's shapes, by output, against the reference's.

    Raises:
        RejectedError: one is missing or differs.
    """
    for name, shape in expected.items():
        if found.get(name) != shape:
            what = f"has shape {found[name]}" if name in found else "is missing"
            raise RejectedError(f"output {name!r} {what} in the candidate; the reference answers shape {shape}")


class _Pairs:
    """What a comparison gathers of both sides."""

    def __init__(self, metric: Metric, n: int) -> None:
        self._metric = metric
        self._parity = ParityAccumulator()
        self._before, self._after = Joined(n), Joined(n)
        self._target, self._classes = Joined(n), Joined(n)

    def add(self, outputs: Arrays, target: Array, answers: Arrays) -> None:
        """Take in some examples."""
        self._parity.add(outputs, answers)
        name, expected = next(iter(outputs.items()))
        self._before.add(*kept_of_reference(self._metric, expected, target))
        self._after.add(*self._metric.kept(answers[name], target))
        if target.size == len(target):
            self._target.add(target.ravel())
        if are_classes(expected, target):
            self._classes.add(top1(expected), top1(answers[name]))

    def result(self, confidence: float) -> Comparison:
        """Accuracy and parity over all of them."""
        metric, before, after = self._metric, self._before.arrays, self._after.arrays
        reference_value, value = metric.value(before), metric.value(after)
        accuracy = Accuracy.model_validate(
            {
                "metric": metric.name,
                "value": value,
                "reference_value": reference_value,
                "drop": _lost(metric, reference_value, value),
                "confidence": confidence,
                "n": len(before[0]),
                "available": len(before[0]),
                **self._of_classes(),
                **_bounds(metric, before, after, confidence),
            }
        )
        return Comparison(accuracy, self._parity.result(), self._scores())

    def _of_classes(self) -> dict[str, object]:
        """Flips, and what came of each class; nothing where the outputs are no classes."""
        if not self._classes.arrays:
            return {}
        expected, found = self._classes.arrays
        (labels,) = self._target.arrays
        before, after = self._metric.scores(self._before.arrays), self._metric.scores(self._after.arrays)
        if before is None or after is None:
            before, after = (expected == labels).astype(np.float64), (found == labels).astype(np.float64)
        per_class, worst_class = by_class(labels, before, after)
        return {"flips": int(np.sum(expected != found)), "per_class": per_class, "worst_class": worst_class}

    def _scores(self) -> dict[str, Array] | None:
        before, after = self._metric.scores(self._before.arrays), self._metric.scores(self._after.arrays)
        if before is None or after is None:
            return None
        scores = {"example": np.arange(len(before)), "reference": before, "candidate": after}
        return scores | dict(zip(["target"], self._target.arrays, strict=False))


def _bounds(metric: Metric, before: Kept, after: Kept, confidence: float) -> dict[str, object]:
    """Fields of the record that depend on the metric's kind."""
    expected, found = metric.scores(before), metric.scores(after)
    if expected is None or found is None:
        reference, candidate = metric.statistic(before), metric.statistic(after)

        def drop(examples: Indices) -> float:
            return _lost(metric, reference(examples), candidate(examples))

        lower, upper = bca_statistic_bounds(drop, len(before[0]), confidence)
    elif metric.kind == "mean":
        lower, upper = bca_bounds(_lost(metric, expected, found), confidence)
    else:
        lost, gained = int(np.sum(expected > found)), int(np.sum(found > expected))
        lower, upper = tango_bounds(len(expected), lost, gained, confidence)
        told = {"drop_lower": lower, "drop_upper": upper, "discordant": lost + gained}
        return {**told, "method": "Tango score interval"}
    return {"drop_lower": lower, "drop_upper": upper, "method": BOOTSTRAP}


def _lost(metric: Metric, reference: Value, candidate: Value) -> Value:
    """How much worse the candidate is, whichever way the metric points."""
    return reference - candidate if metric.higher_is_better else candidate - reference
