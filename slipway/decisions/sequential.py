"""When a candidate may be given up on part of the test set: a sequential test that holds however often one looks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from slipway.decisions.bisection import last_held
from slipway.errors import BadInputError

# Bets as shares of the largest that cannot ruin: the best bet is about (drop - max_drop) / discordance, and halving
# covers it from a collapse (0.9) down to a drop 0.2 points over the margin at 30% discordance (0.007), within a factor.
BETS = 0.9 * 0.5 ** np.arange(8)
_HALVINGS = 50


def hopeless_after(drops: NDArray[np.float64], max_drop: float, alpha: float) -> int | None:
    """After how many examples it is settled that the drop exceeds ``max_drop``; None if these do not settle it.

    ``drops``, shape (n,), are per-example reference minus candidate scores X_i in [-1, 1], in random order, so that
    each is an independent draw from what the test set stands for. The wealth (1/K) sum_k prod_i (1 + l_k (X_i -
    max_drop)) bets on a larger drop, with l_k = BETS[k] / (1 + max_drop). While the mean of X is at most ``max_drop``
    it is a supermartingale that starts at 1, so that it ever reaches 1 / ``alpha`` with probability at most ``alpha``
    (Ville): one may look after each example and stop at any. Betting by Waudby-Smith and Ramdas (2020), "Estimating
    means of bounded random variables by betting".

    Raises:
        BadInputError: a drop is not in [-1, 1], ``max_drop`` is negative, or ``alpha`` is not between 0 and 1.
    """
    _check(drops, alpha)
    if not max_drop >= 0:
        raise BadInputError(f"max_drop must be at least 0, found {max_drop}; 0.01 is usual")
    settled = _log_wealth(drops, max_drop) >= -math.log(alpha)
    return int(np.argmax(settled)) + 1 if settled.any() else None


def drop_lower_bound(drops: NDArray[np.float64], alpha: float) -> float:
    """The largest ``max_drop`` that these examples settle to be exceeded: a lower bound of the drop at 1 - ``alpha``.

    It inverts the test of `hopeless_after` by bisection, since every bet's factor falls as ``max_drop`` rises. It holds
    after any number of examples; -1 where nothing is settled, not even below a max_drop of 0.

    Raises:
        BadInputError: a drop is not in [-1, 1], or ``alpha`` is not between 0 and 1.
    """
    _check(drops, alpha)
    if hopeless_after(drops, 0.0, alpha) is None:
        return -1.0
    return last_held(lambda drop: hopeless_after(drops, drop, alpha) is not None, 0.0, 1.0, _HALVINGS)


def _log_wealth(drops: NDArray[np.float64], max_drop: float) -> NDArray[np.float64]:
    """Logarithm of the mixture after each example, shape (n,); the wealth itself would overflow."""
    bets = BETS / (1 + max_drop)
    each = np.cumsum(np.log1p(np.multiply.outer(bets, drops - max_drop)), axis=1)
    mixture: NDArray[np.float64] = np.logaddexp.reduce(each, axis=0)
    return mixture - math.log(len(bets))


def _check(drops: NDArray[np.float64], alpha: float) -> None:
    wrong = int(np.sum(~(np.abs(drops) <= 1)))
    if wrong:
        raise BadInputError(f"per-example drops must lie in [-1, 1], found {wrong} of {len(drops)} that do not")
    if not 0 < alpha < 1:
        raise BadInputError(f"alpha must be above 0 and below 1, found {alpha}; 0.001 is usual")
