"""How the values of a model's inputs are distributed: some of each example, binned at the deciles of what was seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slipway.measure.arrays import Array
from slipway.records import InputSummary

INPUTS_FILE = "inputs.json"
MOST_VALUES = 256  # of one example
MOST_EXAMPLES = 4096
DECILES = np.arange(1, 10) / 10
RELATIVE_WIDTH, LEAST_WIDTH = 2**-40, 1e-30  # of the bin of a single value
_TURN, _FULL_TURN = 2654435761, 2**32  # their ratio is the golden one, whose multiples fill [0, 1) evenly


def drawn(array: Array, serial: int, most: int = MOST_VALUES) -> Array:
    """At most ``most`` values of ``array``, evenly spread, from places that differ from one ``serial`` to the next.

    What is given is a view, as long as the array is contiguous.
    """
    stride = max(1, -(-array.size // most))
    start = serial * _TURN % _FULL_TURN * stride // _FULL_TURN
    return array.reshape(-1)[start::stride]


def binned(edges: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """How many finite values lie in each bin (`InputSummary`), shape (edges + 1,), and how many are not finite."""
    finite = values[np.isfinite(values)]
    counts = np.bincount(np.searchsorted(edges, finite, side="right"), minlength=len(edges) + 1)
    return counts.astype(np.int64), len(values) - len(finite)


class InputDraw:
    """Draws values of one input from examples that stream by: at most 256 of each, of at most 4,096 examples.

    The same examples in the same order give the same values, however they are cut into batches.
    """

    def __init__(self) -> None:
        self._rows: list[NDArray[np.float64]] = []
        self._every = 1
        self._seen = 0

    def add(self, array: Array) -> None:
        """See the next examples, shape (examples, ...)."""
        for place in range(-self._seen % self._every, len(array), self._every):
            number = self._seen + place
            if number % self._every:
                continue  # fewer are wanted since the loop began
            self._rows.append(drawn(array[place : place + 1], number).astype(np.float64))
            if len(self._rows) > MOST_EXAMPLES:
                self._rows, self._every = self._rows[::2], 2 * self._every
        self._seen += len(array)

    def summary(self, name: str) -> InputSummary:
        """The values of the input ``name`` in bins between their deciles.

        A value at which several deciles lie gets a bin of its own, as does the only value of a constant input; so a
        mask of zeros and ones has one bin for each, and others for whatever else may come.
        """
        values = np.concatenate(self._rows) if self._rows else np.empty(0)
        finite = values[np.isfinite(values)]
        deciles = np.quantile(finite, DECILES, method="inverted_cdf") if len(finite) else finite
        edges, times = np.unique(deciles, return_counts=True)
        edges = np.union1d(edges, _just_above(edges[times > 1]))
        counts, nonfinite = binned(edges, values)
        return InputSummary(
            name=name,
            edges=tuple(edges.tolist()),
            shares=tuple((counts / max(len(finite), 1)).tolist()),
            nonfinite=nonfinite / max(len(values), 1),
            n=len(values),
            examples=len(self._rows),
        )


def _just_above(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Less than the next float32, and never subnormal: some runtimes have their threads take those for zero."""
    return values + np.maximum(np.abs(values) * RELATIVE_WIDTH, LEAST_WIDTH)
