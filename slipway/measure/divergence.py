"""Which operator is wrong: bisect a graph by its intermediate values for the first one that differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slipway.measure.arrays import Array

# Two sound runtimes that compute the same fp32 operators one by one keep to 4e-7 of a value's largest magnitude on
# networks of 7 to 65 operators; deep ones add up to some 1e-6.
ROUNDING = 1e-6
JUMP = 10.0


@dataclass(frozen=True, order=True)
class Deviation:
    """How far a value lies from the reference's: ``share`` is ``max_abs_diff`` over the reference's largest magnitude.

    Both are infinite where shapes differ, or where only one of the two is finite.
    """

    share: float
    max_abs_diff: float


@dataclass(frozen=True)
class Divergence:
    """The first value that differs, how far, and how far at most those lie that it is computed from."""

    value: str
    deviation: Deviation
    before: Deviation


AGREEING = Deviation(0.0, 0.0)


def deviation(reference: Array, candidate: Array) -> Deviation:
    """How far ``candidate`` lies from ``reference``; NaN or infinity at the same places is agreement."""
    if reference.shape != candidate.shape:
        return Deviation(math.inf, math.inf)
    expected, found = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.isfinite(expected) & np.isfinite(found)
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True):
        return Deviation(math.inf, math.inf)
    difference = float(np.max(np.abs(found[finite] - expected[finite]), initial=0.0))
    largest = float(np.max(np.abs(expected[finite]), initial=0.0))
    return Deviation(difference / largest if largest else math.inf, difference) if difference else AGREEING


def first_divergence(
    sources: Mapping[str, Sequence[str]], output: str, measured: Callable[[str], Deviation]
) -> Divergence | None:
    """The value that differs although everything it is computed from agrees; None where no value stands out so.

    ``sources`` gives for every value that can be compared those that it is computed from, in the order of execution.
    ``measured`` tells how far a value deviates, each time it is asked; ``output`` is a value that does.

    Values agree up to a tolerance in the (geometric) middle between rounding and the output's deviation. What is wrong
    early may be masked further on, so that bisecting alone would not do: what it finds is followed back to any source
    that differs, and bisected again there. A value that deviates less than ten times as far as its sources has
    inherited that, and the search goes on before it with a smaller tolerance, down to rounding.
    """
    share = measured(output).share
    tolerance = math.sqrt(ROUNDING * min(share, 1.0))
    found = output
    while tolerance >= ROUNDING and share > ROUNDING:
        found = _earliest(sources, found, measured, tolerance)
        before = max((measured(source) for source in sources[found]), default=AGREEING)
        if measured(found).share >= JUMP * max(before.share, ROUNDING):
            return Divergence(found, measured(found), before)
        tolerance = min(before.share, tolerance) / 2
    return None


def _earliest(
    sources: Mapping[str, Sequence[str]], value: str, measured: Callable[[str], Deviation], tolerance: float
) -> str:
    """A value among ``value`` and what it is computed from that differs while all its own sources agree."""
    while True:
        order = _computed_from(sources, value)
        agrees, found = -1, len(order) - 1
        while found - agrees > 1:
            middle = (agrees + found) // 2
            if measured(order[middle]).share > tolerance:
                found = middle
            else:
                agrees = middle
        value = order[found]
        wrong = [source for source in sources[value] if measured(source).share > tolerance]
        if not wrong:
            return value
        value = wrong[0]


def _computed_from(sources: Mapping[str, Sequence[str]], value: str) -> list[str]:
    """``value`` and all that it is computed from, in the order of execution."""
    reached, waiting = {value}, [value]
    while waiting:
        fresh = set(sources[waiting.pop()]) - reached
        reached |= fresh
        waiting += fresh
    return [one for one in sources if one in reached]
