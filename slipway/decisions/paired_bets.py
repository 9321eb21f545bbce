"""How much accuracy a challenger loses, by bets on mirrored requests that hold however often one looks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slipway.decisions.bisection import last_held
from slipway.decisions.sequential import BETS

_BETS = tuple(BETS.tolist())
_HALVINGS = 21  # to a millionth


@dataclass(frozen=True)
class Pairs:
    """Mirrored requests by X = correct_challenger - correct_champion: +1 where gained, -1 where lost, 0 the same."""

    gained: int
    lost: int
    same: int


def loss_upper_bound(pairs: Pairs, alpha: float) -> float:
    """The smallest accuracy loss that is settled not to be exceeded, at 1 - ``alpha``; 1 where none is.

    Settled is a loss of at most d where (1/K) sum_k prod_i (1 + l_k (X_i + d)) >= 1 / ``alpha``, with l_k = BETS[k] /
    (1 - d): while the mean of X is at most -d it is a supermartingale that starts at 1. The product asks only how often
    each X occurred. Every factor rises with d and with X: to take an unknown X for -1 can only widen the bound.
    Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", Journal of the Royal
    Statistical Society B 86(1), pages 1-27.
    """

    def settled(loss: float) -> bool:
        return _log_wealth(1 / (1 - loss), loss, pairs) >= -math.log(alpha)

    return last_held(settled, 1.0, -1.0, _HALVINGS)


def loss_lower_bound(pairs: Pairs, alpha: float) -> float:
    """The largest accuracy loss that is settled to be exceeded, at 1 - ``alpha``; -1 where none is.

    As `loss_upper_bound`, with the bets prod_i (1 - l_k (X_i + d)), l_k = BETS[k] / (1 + d).
    """

    def settled(loss: float) -> bool:
        return _log_wealth(-1 / (1 + loss), loss, pairs) >= -math.log(alpha)

    return last_held(settled, -1.0, 1.0, _HALVINGS)


def _log_wealth(scale: float, loss: float, pairs: Pairs) -> float:
    """Logarithm of the mixture, of bets BETS[k] x ``scale``; the wealth itself would overflow."""
    each = [
        pairs.gained * math.log1p(bet * scale * (1 + loss))
        + pairs.lost * math.log1p(bet * scale * (loss - 1))
        + pairs.same * math.log1p(bet * scale * loss)
        for bet in _BETS
    ]
    most = max(each)
    return most + math.log(sum(math.exp(one - most) for one in each) / len(each))
