"""Which latencies of both arms may be compared: those of the same times, however the shares grew meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slipway.records.rollout import StepStart

Arms = tuple[NDArray[np.float64], NDArray[np.float64]]


def concurrent(
    champion: NDArray[np.float64], challenger: NDArray[np.float64], odds: Sequence[float], starts: Sequence[StepStart]
) -> Arms:
    """``champion`` and ``challenger``, each in the order of the requests, thinned to the same odds at every step.

    Most of the champion's answers are from the first steps, most of the challenger's from the last. Where the load
    changes meanwhile, two equal engines would differ (Simpson 1951). So of each step every so many-th answer is kept,
    so that the champion has as many per answer of the challenger as at the step of the fewest, or one. ``odds`` are
    these numbers by the policy, (100 - share) / share of each of ``starts``: what is kept depends on no latency, and
    grows with the requests. With no start everything is kept.
    """
    if not starts:
        return champion, challenger
    common = max(1.0, min(odds[: len(starts)]))
    bounds = [*starts, StepStart(champion_answers=len(champion), challenger_answers=len(challenger))]
    kept_champion, kept_challenger = [], []
    for own, start, end in zip(odds, bounds, bounds[1:], strict=False):
        every_champion, every_challenger = max(1, round(own / common)), max(1, round(common / own))
        kept_champion.append(champion[start.champion_answers : end.champion_answers : every_champion])
        kept_challenger.append(challenger[start.challenger_answers : end.challenger_answers : every_challenger])
    return np.concatenate(kept_champion), np.concatenate(kept_challenger)
