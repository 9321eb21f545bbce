"""Accuracy: run a data set once, keep the answers, and compare two sets of answers example by example."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from slipway.decisions.paired import bca_bounds, bca_statistic_bounds, tango_bounds
from slipway.errors import BadInputError, RejectedError
from slipway.measure.arrays import Array, Arrays, Infer, read_arrays, write_arrays
from slipway.measure.formulas import Indices, Scores
from slipway.measure.metrics import Metric
from slipway.measure.parity import top1
from slipway.records import Accuracy

_OUTPUT = "output/"
_TARGET = "target"
Value = TypeVar("Value", float, Scores)


def predict(infer: Infer, batches: Iterable[tuple[Arrays, Array]]) -> tuple[dict[str, Array], Array]:
    """Outputs by name and targets over all ``batches`` of (inputs, target), in order.

    Outputs are copied, since an engine may hand out the same buffer again.

    Raises:
        BadInputError: there are no examples.
        RejectedError: an output is not batch first, or its name or shape changes between batches.
    """
    answers: list[dict[str, Array]] = []
    targets: list[Array] = []
    for inputs, target in batches:
        answer = {name: np.array(output) for name, output in infer(inputs).items()}
        for name, output in answer.items():
            if output.shape[:1] != target.shape[:1]:
                raise RejectedError(
                    f"output {name!r} has shape {output.shape} for a batch of {len(target)}, not batch first"
                )
        answers.append(answer)
        targets.append(target)
    if sum(map(len, targets)) == 0:
        raise BadInputError("accuracy over an empty set is undefined, found no examples; give test data")
    shapes = [{name: output.shape[1:] for name, output in answer.items()} for answer in answers]
    for shape in shapes:
        if shape != shapes[0]:
            raise RejectedError(f"outputs change between batches, from {shapes[0]} to {shape} per example")
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}, np.concatenate(targets)


def save_predictions(path: Path, outputs: Arrays, target: Array) -> None:
    """Write outputs and target as npz without pickle; equal predictions give equal bytes."""
    write_arrays(path, {**{_OUTPUT + name: output for name, output in outputs.items()}, _TARGET: target})


def load_predictions(path: Path) -> tuple[dict[str, Array], Array]:
    """Outputs by name, in order, and target, as `save_predictions` wrote them.

    Raises:
        BadInputError: the file is not one of predictions.
    """
    arrays = read_arrays(path)
    outputs = {name.removeprefix(_OUTPUT): array for name, array in arrays.items() if name.startswith(_OUTPUT)}
    if _TARGET not in arrays or not outputs:
        raise BadInputError(f"{path} holds {sorted(arrays)}, not outputs and a target; validate again")
    return outputs, arrays[_TARGET]


def compare(metric: Metric, reference: tuple[Arrays, Array], candidate: Arrays, confidence: float) -> Accuracy:
    """The candidate's accuracy on the first output, paired per example with the reference's (outputs, target).

    The bounds, each one-sided at ``confidence``, are Tango's score interval for 0/1 scores and a paired BCa bootstrap
    for all others.

    Raises:
        BadInputError: outputs and target do not fit the metric, or the reference itself answers NaN.
        RejectedError: the candidate answers NaN, or its first output differs in name or shape.
    """
    outputs, target = reference
    name, expected = next(iter(outputs.items()))
    found = candidate.get(name)
    if found is None or found.shape != expected.shape:
        what = "is missing" if found is None else f"has shape {found.shape}"
        raise RejectedError(f"output {name!r} {what} in the candidate; the reference answers shape {expected.shape}")
    try:
        reference_value = metric.value(expected, target)
    except RejectedError as error:
        raise BadInputError(f"the reference itself cannot be scored: {error}; mend the model or the data") from error
    value = metric.value(found, target)
    return Accuracy.model_validate(
        {
            "metric": metric.name,
            "value": value,
            "reference_value": reference_value,
            "drop": _lost(metric, reference_value, value),
            "confidence": confidence,
            "n": len(target),
            "flips": _flips(expected, found, target),
            **_bounds(metric, expected, found, target, confidence),
        }
    )


def _bounds(metric: Metric, expected: Array, found: Array, target: Array, confidence: float) -> dict[str, object]:
    """Fields of the record that depend on the metric's kind."""
    before, after = metric.scores(expected, target), metric.scores(found, target)
    if before is None or after is None:
        reference, candidate = metric.statistic(expected, target), metric.statistic(found, target)

        def drop(examples: Indices) -> float:
            return _lost(metric, reference(examples), candidate(examples))

        lower, upper = bca_statistic_bounds(drop, len(target), confidence)
    elif metric.kind == "mean":
        lower, upper = bca_bounds(_lost(metric, before, after), confidence)
    else:
        lost, gained = int(np.sum(before > after)), int(np.sum(after > before))
        lower, upper = tango_bounds(len(target), lost, gained, confidence)
        return {
            "drop_lower": lower,
            "drop_upper": upper,
            "method": "Tango score interval",
            "discordant": lost + gained,
            "worst_class": _worst_class(before, after, target.ravel()),
        }
    return {"drop_lower": lower, "drop_upper": upper, "method": "paired BCa bootstrap"}


def _lost(metric: Metric, reference: Value, candidate: Value) -> Value:
    """How much worse the candidate is, whichever way the metric points."""
    return reference - candidate if metric.higher_is_better else candidate - reference


def _flips(expected: Array, found: Array, target: Array) -> int | None:
    """How many top-1 answers changed; None where the outputs are no classes."""
    if expected.ndim != 2 or expected.shape[1] < 2 or target.size != len(expected) or target.dtype.kind not in "iub":
        return None
    return int(np.sum(top1(expected) != top1(found)))


def _worst_class(before: Scores, after: Scores, labels: NDArray[np.generic]) -> str | None:
    """The class that lost most, in words; None where none lost anything."""
    classes, of_class = np.unique(labels, return_inverse=True)
    sizes = np.bincount(of_class)
    was, now = np.bincount(of_class, before) / sizes, np.bincount(of_class, after) / sizes
    worst = int(np.argmax(was - now))
    if was[worst] <= now[worst]:
        return None
    return f"class {classes[worst]}: {was[worst]:.1%} -> {now[worst]:.1%} (n={sizes[worst]})"
