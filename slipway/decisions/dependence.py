"""Slow requests that come in bursts are not independent: how far apart they have to be to count, and for how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from slipway.decisions.confidence_sequences import admissible_counts, quantile_bounds

LEAST_KEPT = 200
_BY_CHANCE = 0.001 / 2
_MATTERS = 0.1  # of a binomial count's variance, to which each pair beyond expectation adds two
_LARGEST = 4096  # of blocks; what still depends then has not enough blocks to conclude anything


@dataclass(frozen=True)
class Sample:
    """One latency of every ``block`` that follow each other: ``ordered``, shape (n,), in ascending order.

    Fewer than 200 conclude nothing: among so few, a burst of slow requests cannot be told from a slow engine.
    """

    ordered: NDArray[np.float64]
    block: int

    @property
    def n(self) -> int:
        """How many count."""
        return len(self.ordered)

    def bounds(self, share: float, arms: int, alpha: float) -> tuple[float, float]:
        """The `quantile_bounds` for a comparison of ``arms`` at ``alpha``."""
        if self.n < LEAST_KEPT:
            return -math.inf, math.inf
        return quantile_bounds(self.ordered, share, self._limit(arms, alpha))

    def counts(self, share: float, alpha: float) -> tuple[int, int]:
        """The `admissible_counts` for this arm alone at ``alpha``."""
        if self.n < LEAST_KEPT:
            return 0, self.n
        return admissible_counts(self.n, share, self._limit(1, alpha))

    def _limit(self, arms: int, alpha: float) -> float:
        """How large the mixture may become.

        With no block it is 2 x ``arms`` / ``alpha`` (4 / ``alpha`` for two arms), which spends half of ``alpha``; each
        doubling of the block doubles it, which spends the other half. So the sequences of all blocks together are
        ever wrong with probability at most ``alpha``, and to choose among them by the data itself can do no harm.
        """
        return 2 * arms * self.block / alpha


def spread(latencies: NDArray[np.float64], share: float) -> Sample:
    """``latencies``, in the order of the requests, thinned until those over the ``share`` quantile come on their own.

    Those over a quantile four times as far from 1 have to, too: where most of few latencies were slow, the slowest
    among them look as if at random. The block is the smallest power of two that passes `come_in_bursts`. Thinning keeps
    the distribution, which means or maxima of blocks would not.

    Guaranteed: of independent latencies the error rate holds whatever is chosen here. Of latencies that depend on each
    other no further than the block, it holds as well. Not guaranteed: a dependence too weak, too rare or too
    far-reaching for the test to see.
    """
    if not len(latencies):
        return Sample(latencies, 1)
    ordered = np.sort(latencies)
    thresholds = [ordered[math.ceil(above * len(ordered)) - 1] for above in (share, 1 - 4 * (1 - share))]
    block = _block(latencies, thresholds)
    return Sample(ordered if block == 1 else np.sort(latencies[::block]), block)


def spread_over(latencies: NDArray[np.float64], threshold: float) -> Sample:
    """As `spread`, by those over ``threshold`` alone."""
    block = _block(latencies, [threshold])
    return Sample(np.sort(latencies[::block]), block)


def _block(latencies: NDArray[np.float64], thresholds: Sequence[float]) -> int:
    series, block = [latencies > threshold for threshold in thresholds], 1
    while block < _LARGEST and any(come_in_bursts(exceeds[::block]) for exceeds in series):
        block *= 2
    return block


def come_in_bursts(exceeds: NDArray[np.bool_]) -> bool:
    """Whether more of ``exceeds``, shape (n,), are close to each other than are further apart, beyond chance.

    Counted are the pairs at most 1 apart beside those 17 to 32 apart, and those at most 8 beside those 33 to 64. Where
    each exceeds on its own, in a share that changes slowly if at all, a pair is close with the share of close places
    among both: a binomial test, at 1 / 1000 in all. By the pairs beyond that a count of exceedances varies more than a
    binomial one: a tenth more is let pass. An engine that has become slow for good is not a burst: after about 200
    requests of it, pairs further apart are as frequent. That is why the rest of the series is not what is compared
    with, as in the test of Ljung and Box (1978).
    """
    up_to = np.cumsum(exceeds, dtype=np.intp)
    at = np.flatnonzero(exceeds)
    return any(_closer(at, up_to, near, far) for near, far in (((1, 1), (17, 32)), ((1, 8), (33, 64))))


def _closer(at: NDArray[np.intp], up_to: NDArray[np.intp], near: tuple[int, int], far: tuple[int, int]) -> bool:
    """Whether more pairs are ``near`` than chance and those ``far`` bring about, and enough more to matter."""
    close, apart = _pairs(at, up_to, near), _pairs(at, up_to, far)
    if not close or len(up_to) <= far[1]:
        return False
    near_places, far_places = ((last - first + 1) * (len(up_to) - (first + last) / 2) for first, last in (near, far))
    expected_share = near_places / (near_places + far_places)
    beyond = close - apart * near_places / far_places
    return 2 * beyond > _MATTERS * len(at) and bool(bdtrc(close - 1, close + apart, expected_share) < _BY_CHANCE)


def _pairs(at: NDArray[np.intp], up_to: NDArray[np.intp], lags: tuple[int, int]) -> int:
    """How many pairs are so far apart, of ``at`` with those after it; ``up_to`` counts all up to each place."""
    last = len(up_to) - 1
    return int(np.sum(up_to[np.minimum(at + lags[1], last)] - up_to[np.minimum(at + lags[0] - 1, last)]))
