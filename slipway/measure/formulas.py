"""Formulas of the metrics, on outputs of shape (n, ...) and a target of n entries; none checks for NaN.

A rule of what to keep reduces any number of examples to arrays of as many rows, which is all that is held of them. A
statistic rule prepares whatever in these does not depend on the sample, and gives a function from indices into the
examples, with repeats, to the metric on that resample: a bootstrap calls it thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from slipway.errors import BadInputError, RejectedError
from slipway.measure.arrays import Array

Scores: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Kept: TypeAlias = tuple[Array, ...]
Statistic: TypeAlias = Callable[[Indices], float]


def top_k_hits(outputs: Array, target: Array, k: int) -> Kept:
    """1 where the label is among the ``k`` highest of (n, classes) scores, else 0; equal scores rank by class."""
    labels = _labels(outputs, target)[:, None]
    classes = outputs.shape[1]
    if k > classes:
        raise BadInputError(f"top-{k} of {classes} classes is always right; give a smaller k")
    scores = outputs.astype(np.float64)
    own = np.take_along_axis(scores, labels, axis=1)
    ahead = (scores > own) | ((scores == own) & (np.arange(classes) < labels))
    return (np.less(ahead.sum(axis=1), k).astype(np.float64),)


def absolute_errors(outputs: Array, target: Array) -> Kept:
    """Absolute error per example, averaged over its entries."""
    return (np.abs(_errors(outputs, target)).mean(axis=1),)


def cosines(outputs: Array, target: Array) -> Kept:
    """Cosine of output and target per example, each flattened; 0 where one of them is all zeros."""
    found, expected = _finite_rows(outputs, target)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    products = (found * expected).sum(axis=1)
    return (np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0),)


def mean(kept: Kept) -> Statistic:
    """Mean of one score per example."""
    scores = kept[0].astype(np.float64)
    return lambda examples: float(np.mean(scores[examples]))


def squared_errors(outputs: Array, target: Array) -> Kept:
    """Squared error per example, averaged over its entries."""
    return ((_errors(outputs, target) ** 2).mean(axis=1),)


def root_of_mean(kept: Kept) -> Statistic:
    """Root of the mean of one score per example."""
    squares = kept[0].astype(np.float64)
    return lambda examples: float(np.sqrt(np.mean(squares[examples])))


def labels_and_answers(outputs: Array, target: Array) -> Kept:
    """The label, and the class with the highest score."""
    return _labels(outputs, target), np.argmax(outputs, axis=1)


def macro_f1(kept: Kept) -> Statistic:
    """F1 of labels and answers, averaged over the classes that occur as either, each weighing the same."""
    labels, answers = (array.astype(np.intp) for array in kept)
    classes = int(max(labels.max(), answers.max())) + 1

    def f1(examples: Indices) -> float:
        wanted, given = labels[examples], answers[examples]
        hits = np.bincount(wanted[wanted == given], minlength=classes)
        sizes = np.bincount(wanted, minlength=classes) + np.bincount(given, minlength=classes)
        occurring = sizes > 0
        return float(np.mean(2 * hits[occurring] / sizes[occurring]))

    return f1


def labels_and_scores(outputs: Array, target: Array) -> Kept:
    """The label, and its scores: one per example where there are two classes, else one per class.

    Two classes are outputs (n,), (n, 1) or (n, 2), two columns being compared by their difference.
    """
    scores = outputs.reshape(len(outputs), -1)
    if scores.shape[1] > 2:
        return _labels(scores, target), scores
    labels = _labels(np.broadcast_to(scores[:, :1], (len(scores), 2)), target)
    single = scores.astype(np.float64)
    return labels, single[:, -1] - (single[:, 0] if single.shape[1] == 2 else 0)


def auroc(kept: Kept) -> Statistic:
    """Area under the ROC curve: the chance that a positive scores above a negative, equal scores counting half.

    For more than two classes the mean of one against the rest over those that occur, on the scores as they are. By the
    rank statistic of Mann and Whitney (Hanley & McNeil 1982, Radiology 143:29-36).
    """
    labels, scores = kept
    if scores.ndim == 1:
        areas = [_area(scores, labels == 1)]
    else:
        areas = [_area(scores[:, label], labels == label) for label in range(scores.shape[1])]

    def mean_area(examples: Indices) -> float:
        counts = np.bincount(examples, minlength=len(labels))
        known = [value for area in areas if (value := area(counts)) is not None]
        if not known:
            raise BadInputError("auroc needs examples of at least two classes, found one; give more test data")
        return float(np.mean(known))

    return mean_area


def _area(scores: Array, positive: NDArray[np.bool_]) -> Callable[[NDArray[np.intp]], float | None]:
    """The area as a function of how often each example occurs; None where positives or negatives are missing."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    ties = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    positive = positive[order]

    def area(counts: NDArray[np.intp]) -> float | None:
        weights = counts[order]
        positives = np.add.reduceat(np.where(positive, weights, 0), ties)
        negatives = np.add.reduceat(np.where(positive, 0, weights), ties)
        pairs = int(positives.sum()) * int(negatives.sum())
        if pairs == 0:
            return None
        below = np.cumsum(negatives) - negatives
        return float(np.sum(positives * (below + negatives / 2)) / pairs)

    return area


def _labels(outputs: Array, target: Array) -> NDArray[np.intp]:
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise BadInputError(f"a classification metric needs outputs (n, classes >= 2), found shape {outputs.shape}")
    if target.dtype.kind not in "iub":
        raise BadInputError(f"labels must be whole numbers, found dtype {target.dtype}; store the target as integers")
    if target.size != len(outputs):
        raise BadInputError(f"labels must be one per example, found shape {target.shape} for {len(outputs)} examples")
    labels = target.ravel().astype(np.intp)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= outputs.shape[1]:
        raise BadInputError(
            f"labels must lie in 0..{outputs.shape[1] - 1}, the classes of the outputs; found {lowest}..{highest}"
        )
    return labels


def _errors(outputs: Array, target: Array) -> Scores:
    found, expected = _finite_rows(outputs, target)
    return found - expected


def _finite_rows(outputs: Array, target: Array) -> tuple[Scores, Scores]:
    """Outputs and target as float64 rows, shape (n, entries); never broadcast, since (n, 1) - (n,) is (n, n)."""
    found = outputs.reshape(len(outputs), -1).astype(np.float64)
    expected = target.reshape(len(target), -1).astype(np.float64)
    if found.shape != expected.shape:
        raise BadInputError(f"outputs {outputs.shape} and target {target.shape} differ in size; give one that fits")
    if not np.isfinite(expected).all():
        raise BadInputError("the target holds NaN or infinity; mend the data")
    infinite = int(np.sum(~np.isfinite(found).all(axis=1)))
    if infinite:
        raise RejectedError(f"outputs are infinite in {infinite} of {len(found)} examples; the candidate overflows")
    return found, expected
