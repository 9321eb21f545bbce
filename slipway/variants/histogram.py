"""A histogram of values that stream by, in memory that neither their number nor their order changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 2**13


class Histogram:
    """Counts of values in `BINS` equal bins over [-limit, limit), with the least and the greatest value.

    The limit is a power of two and doubles when a value lies beyond, whereupon each two bins become one: the bins of
    every limit nest, so that the counts depend on the values alone, not on the order or the batches they came in.
    """

    def __init__(self, *, counting: bool = True) -> None:
        """With ``counting`` off, only the least and the greatest value are kept, which is quicker."""
        self.lowest, self.highest = np.inf, -np.inf
        self.limit = 0.0
        self.counts: NDArray[np.int64] | None = np.zeros(BINS, np.int64) if counting else None

    def add(self, values: NDArray[Any]) -> None:
        """Take in finite values of any shape."""
        if values.size == 0:
            return
        lowest, highest = float(values.min()), float(values.max())
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        if self.counts is None:
            return
        self._widen(max(-lowest, highest))
        if self.limit == 0:  # all values so far are zero
            self.counts[BINS // 2] += values.size
            return
        places = values.astype(np.float64).ravel() * (BINS / 2 / self.limit)
        bins = np.floor(places).astype(np.int64) + BINS // 2
        self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    def _widen(self, magnitude: float) -> None:
        if magnitude <= self.limit or self.counts is None:
            return
        wanted = float(2.0 ** np.ceil(np.log2(magnitude)))
        while 0 < self.limit < wanted and self.counts.any():
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS - BINS // 4] = merged
            self.limit *= 2
        self.limit = max(self.limit, wanted)

    def edges(self) -> NDArray[np.float64]:
        """The bins' edges, shape (BINS + 1,)."""
        return np.linspace(-self.limit, self.limit, BINS + 1)

    def occupied(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Middles of the bins that hold values, and how many each holds; shapes (k,), k <= BINS.

        A middle never lies beyond the least or the greatest value.
        """
        assert self.counts is not None, "this histogram does not count"
        (found,) = self.counts.nonzero()
        middles = (self.edges()[found] + self.edges()[found + 1]) / 2
        return np.clip(middles, self.lowest, self.highest), self.counts[found].astype(np.float64)

    def share_outside(self, low: float, high: float) -> float:
        """The share of values beyond [low, high], to the width of a bin; 0 where values are not counted."""
        if self.counts is None or not self.counts.any():
            return 0.0
        middles, counts = self.occupied()
        return float(counts[(middles < low) | (middles > high)].sum() / counts.sum())
