"""Whether an arm that answered well has begun to fail: bets that begin anew with every request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ANSWERED, FAILED, CHAMPION_FAILED = 0, 1, 2  # what became of a request to the challenger; or to the champion meanwhile
_EARLY = 1000  # half of all belief is that it begins within so many requests
_RECENT = 20_000
_ENDS = -100.0


def failing_evidence(outcomes: NDArray[np.int8], share: float) -> float:
    """The logarithm of the evidence that, since some request, more than ``share`` of them fail; -inf for none.

    ``outcomes``, shape (n,), are ANSWERED, FAILED or CHAMPION_FAILED, in the order of the requests. The bet that begins
    with request s multiplies what it has by 1 / (2 ``share``) at a failure and by 1/2 at an answer: while failures are
    independent and no more than ``share``, it never grows in expectation. It has w_s = c / ((s + c - 1) (s + c)) at
    first, which adds up to 1 over all s: whatever the request at which it begins to fail, and however often one looks,
    what all bets have together ever reaches 1 / alpha with probability at most alpha (Ville 1939). No factor rises with
    ``share``: an upper bound may stand for a share that is not known. A failure of the champion ends the bets, which
    can only lessen them: what fails both arms is not the challenger's. Bets from before the last 20,000 are left out.
    """
    if not len(outcomes) or share >= 0.5:
        return -np.inf
    recent = outcomes[-_RECENT:]
    number = np.arange(len(outcomes) - len(recent) + 1, len(outcomes) + 1, dtype=np.float64)
    factor = np.array([np.log(0.5), -np.log(2 * share), _ENDS])[recent]
    reached = np.cumsum(factor)
    begun = np.log(_EARLY) - np.log(number + _EARLY - 1) - np.log(number + _EARLY)
    return float(reached[-1] + np.logaddexp.reduce(begun - (reached - factor)))
