"""Which candidates a limited time is spent on: successive halving that never drops one that could still be best."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slipway.records import Interval


def survivors(speedups: Sequence[Interval], counts: Sequence[bool] | None = None) -> tuple[int, ...]:
    """Indices, ascending, of the candidates worth measuring for longer, by their speed-ups so far (higher is better).

    Kept are the better half by value, rounded up, and every other one whose interval reaches that of one kept: only
    what is clearly worse than all of the better half is dropped, and of two only a clear loser. Halving by Karnin,
    Koren and Somekh (2013), "Almost optimal exploration in multi-armed bandits", made cautious by the intervals.
    The better half is that of those which ``counts`` marks, of all if it marks none.
    """
    everyone = range(len(speedups))
    counting = [index for index in everyone if counts is None or counts[index]] or list(everyone)
    best_first = sorted(counting, key=lambda index: -speedups[index].value)
    half = best_first[: math.ceil(len(counting) / 2)]
    within_reach = min((speedups[index].lower for index in half), default=0.0)
    return tuple(i for i, own in enumerate(speedups) if i in half or own.upper >= within_reach)
