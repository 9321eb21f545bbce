"""Bounds of a quantile and of a share that hold at every look at once, however often one looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slipway.decisions.bisection import last_held
from slipway.errors import BadInputError

# What the mixture believes beforehand, as a number of examples: 20 make the bounds tightest at some hundreds to some
# tens of thousands, and far from these only slightly wider.
_PRIOR_EXAMPLES = 20
_JEFFREYS = 0.5
_HALVINGS = 30


def admissible_counts(n: int, share: float, limit: float) -> tuple[int, int]:
    """The fewest and the most of ``n`` draws that may be hits before "each hits with ``share``" is rejected.

    Rejected is where M_n(S) = B(a+S, b+n-S) / (B(a,b) p^S (1-p)^(n-S)) reaches ``limit``, with S hits, p = ``share``,
    a = 20p and b = 20(1-p). Of independent draws that do hit with p it is a martingale that starts at 1, so that it
    ever reaches ``limit`` with probability at most 1 / ``limit`` (Ville 1939): whoever looks after each draw may reject
    at any. The mixture is Robbins' (1970), "Statistical methods related to the law of the iterated logarithm", Annals
    of Mathematical Statistics 41, pages 1397-1409. Its logarithm is convex in S, and at S = np it is below 0: what is
    admissible is one range, found by bisection.

    Raises:
        BadInputError: ``n`` is negative, ``share`` is not between 0 and 1, or ``limit`` is not above 1.
    """
    _check(n, share, limit)
    a, b = _PRIOR_EXAMPLES * share, _PRIOR_EXAMPLES * (1 - share)
    log_hit, log_miss, log_limit = math.log(share), math.log1p(-share), math.log(limit)

    def admissible(hits: int) -> bool:
        ratio = _log_beta(a + hits, b + n - hits) - _log_beta(a, b) - hits * log_hit - (n - hits) * log_miss
        return ratio < log_limit

    expected = min(max(round(n * share), 0), n)
    fewest = _first(admissible, 0, expected)
    most = n - _first(lambda misses: admissible(n - misses), 0, n - expected)
    return fewest, most


def quantile_bounds(ordered: NDArray[np.float64], share: float, limit: float) -> tuple[float, float]:
    """The least and the largest value that may still be the quantile ``share``, in the unit of ``ordered``.

    ``ordered``, shape (n,), are all values so far in ascending order. A value q is ruled out where #{X <= q} is not
    admissible, so that the bounds are two order statistics: -inf and inf where even the smallest or largest value rules
    nothing out. Of independent draws from one distribution, each bound and both together are ever wrong with
    probability at most 1 / ``limit``. Ties only make that rarer: at the quantile at least ``share`` of the draws fall
    on or below, and at most ``share`` below. Howard and Ramdas (2022), "Sequential estimation of quantiles with
    applications to A/B testing and best-arm identification", Bernoulli 28(3), pages 1704-1728.

    Raises:
        BadInputError: as `admissible_counts`.
    """
    fewest, most = admissible_counts(len(ordered), share, limit)
    lower = float(ordered[fewest - 1]) if fewest >= 1 else -math.inf
    upper = float(ordered[most]) if most < len(ordered) else math.inf
    return lower, upper


def share_bounds(hits: int, n: int, limit: float) -> tuple[float, float]:
    """The least and the largest share that ``hits`` of ``n`` draws do not rule out; 0 and 1 of no draws.

    The mixture of `admissible_counts`, with Jeffreys' a = b = 1/2, which is sharp where hits are rare: a share p is
    ruled out where it reaches ``limit``. Its logarithm is convex in p, least at ``hits`` / ``n``.

    Raises:
        BadInputError: ``hits`` are not between 0 and ``n``, or ``limit`` is not above 1.
    """
    _check(n, 0.5, limit)
    if not 0 <= hits <= n:
        raise BadInputError(f"of {n} draws 0 to {n} can be hits, found {hits}")
    mixed = _log_beta(_JEFFREYS + hits, _JEFFREYS + n - hits) - _log_beta(_JEFFREYS, _JEFFREYS)

    def ruled_out(share: float) -> bool:
        log_hits = hits * math.log(share) if hits else 0.0
        log_misses = (n - hits) * math.log1p(-share) if n > hits else 0.0
        return mixed - log_hits - log_misses >= math.log(limit)

    seen = hits / n if n else 0.0
    lower = last_held(ruled_out, 0.0, seen, _HALVINGS) if hits else 0.0
    upper = last_held(ruled_out, 1.0, seen, _HALVINGS) if hits < n else 1.0
    return lower, upper


def _first(true: Callable[[int], bool], low: int, high: int) -> int:
    """The first of ``low`` to ``high`` for which ``true`` holds, which holds from there up to ``high``."""
    while low < high:
        middle = (low + high) // 2
        if true(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _check(n: int, share: float, limit: float) -> None:
    if n < 0:
        raise BadInputError(f"a number of draws is at least 0, found {n}")
    if not 0 < share < 1:
        raise BadInputError(f"share must be above 0 and below 1, found {share}; 0.95 is that of a p95")
    if not limit > 1:
        raise BadInputError(f"limit must be above 1, found {limit}; 4 / alpha is usual")
