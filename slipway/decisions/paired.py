"""One-sided bounds of a paired drop, reference minus candidate, and the number of examples that would decide a gate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.decisions.bisection import last_held
from slipway.errors import BadInputError
from slipway.records import Accuracy

MOST_EXAMPLES = 10_000_000
BOOTSTRAP = "paired BCa bootstrap"
RESAMPLES = 1_999
BATCH = 500  # resamples held in memory at once
MOST_UNITS = 2_000
ROUNDING = 1e-12  # relative: what two equal float64 scores may differ by after a few operations
_HALVINGS = 60  # of an interval of length 2: down to about 2e-18, below the spacing of floats


def tango_bounds(n: int, lost: int, gained: int, confidence: float) -> tuple[float, float]:
    """Lower and upper bound, each one-sided at ``confidence``, of the drop ``(lost - gained) / n`` of 0/1 outcomes.

    Of ``n`` examples the reference alone got ``lost`` right and the candidate alone ``gained``. The bounds invert the
    score test of Tango (1998), Statistics in Medicine 17:891-908, by bisection: its statistic falls as the drop tested
    rises. Both lie in [-1, 1] and enclose the observed drop. At 95% each misses in 5% of cases; where less than about
    ten examples are lost, the upper bound, which lets a candidate pass, in at most 6.8% and the lower in at most 9.5%.

    Raises:
        BadInputError: the counts do not fit in ``n``, or the confidence is not above 0.5 and below 1.
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise BadInputError(f"paired counts must fit in n: found n={n}, lost={lost}, gained={gained}; count them again")
    z = _normal_quantile(confidence)
    return _tango_lower(n, lost, gained, z), -_tango_lower(n, gained, lost, z)


def bca_bounds(drops: NDArray[np.float64], confidence: float, seed: int = 0) -> tuple[float, float]:
    """Lower and upper bound, each one-sided at ``confidence``, of the mean of per-example ``drops``, shape (n,).

    Method, cost and further errors are those of `bca_statistic_bounds`; equal drops return that value twice.

    Raises:
        BadInputError: there are fewer than two drops, or one is not finite.
    """
    wrong = int(np.sum(~np.isfinite(drops)))
    if wrong:
        raise BadInputError(f"per-example drops must be finite, found {wrong} of {len(drops)} not; look at the outputs")
    # Equal but for rounding, they have no spread to resample: BCa would divide by zero.
    if len(drops) > 1 and np.ptp(drops) <= ROUNDING * np.max(np.abs(drops)):
        return float(drops[0]), float(drops[0])
    rng = np.random.default_rng(seed)
    members = _random_groups(len(drops), rng)
    sums, sizes = np.where(members >= 0, drops[members], 0).sum(axis=1), np.sum(members >= 0, axis=1)

    def mean(sums: NDArray[np.float64], sizes: NDArray[np.intp], axis: int) -> NDArray[np.float64]:
        return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis))

    return _bca((sums, sizes), mean, len(drops), confidence, rng)


def bca_statistic_bounds(
    statistic: Callable[[NDArray[np.intp]], float], n: int, confidence: float, seed: int = 0
) -> tuple[float, float]:
    """Lower and upper bound, each one-sided at ``confidence``, of a drop that is defined on a set of examples.

    ``statistic`` takes indices into the ``n`` examples, with repeats, and returns the drop on that resample; reference
    and candidate share the indices, so that the comparison stays paired. Bias-corrected and accelerated bootstrap
    (Efron 1987, JASA 82:171-185) by `scipy.stats.bootstrap`, the same for the same ``seed``. A statistic that is the
    same on every resample returns that value twice.

    Cost: 1,999 resamples and a jackknife of at most 2,000 calls, whatever ``n``: beyond 2,000 examples, 2,000 random
    groups of equal size (to within one) are resampled in place of single examples.

    Raises:
        BadInputError: there are fewer than two examples, or the statistic is undefined on a resample.
    """
    rng = np.random.default_rng(seed)
    members = _random_groups(n, rng)

    def drop(groups: NDArray[np.intp]) -> float:
        examples = members[groups].ravel()
        return statistic(examples[examples >= 0])

    return _bca((np.arange(len(members)),), drop, n, confidence, rng)


def examples_to_decide(accuracy: Accuracy, max_drop: float) -> int | None:
    """About how many examples would put the deciding bound on the right side of ``max_drop``.

    Assumes that drop and discordance stay as observed. With ``accuracy.discordant`` known, Tango's statistic at
    ``max_drop`` is solved for n; else the distance from drop to bound is taken to shrink with the square root of n.
    None where the drop sits on the margin, so that more than `MOST_EXAMPLES` would be needed.
    """
    if accuracy.discordant is not None:
        lost = (accuracy.discordant / accuracy.n + accuracy.drop) / 2
        variance = _restricted_variance(1, lost, lost - accuracy.drop, max_drop)
        spread = variance * _normal_quantile(accuracy.confidence) ** 2
    else:
        bound = accuracy.drop_upper if accuracy.drop < max_drop else accuracy.drop_lower
        spread = accuracy.n * (bound - accuracy.drop) ** 2
    gap_squared = (accuracy.drop - max_drop) ** 2
    if spread >= MOST_EXAMPLES * gap_squared:
        return None
    return max(math.ceil(spread / gap_squared), accuracy.n + 1)


def _tango_lower(n: int, lost: int, gained: int, z: float) -> float:
    def kept(drop: float) -> bool:
        return lost - gained - n * drop <= z * math.sqrt(n * _restricted_variance(n, lost, gained, drop))

    return last_held(kept, (lost - gained) / n, -1.0, _HALVINGS)


def _restricted_variance(n: float, lost: float, gained: float, drop: float) -> float:
    """Variance of one paired difference when the true drop is ``drop``, in (-1, 1), and the rest is fitted.

    The fitted share of gained examples is the larger root q of Tango's 2n q^2 + linear q - gained drop (1 - drop) = 0.
    """
    linear = (2 * n - lost + gained) * drop - lost - gained
    root = math.sqrt(max(linear * linear + 8 * n * gained * drop * (1 - drop), 0.0))
    return max((root - linear) / (2 * n) + drop * (1 - drop), 0.0)


def _bca(
    data: tuple[NDArray[Any], ...], statistic: Callable[..., Any], n: int, confidence: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Bounds of ``statistic`` over paired ``data``; one that takes an ``axis`` is called on all resamples at once."""
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # told as an error below
        level = 2 * _checked(confidence) - 1
        bootstrap = partial(stats.bootstrap, data, statistic, paired=True, confidence_level=level, batch=BATCH, rng=rng)
        resampled = bootstrap(method="percentile", n_resamples=RESAMPLES)
        drops = resampled.bootstrap_distribution
        if np.all(drops == drops[0]):
            return float(drops[0]), float(drops[0])
        interval = bootstrap(method="BCa", n_resamples=0, bootstrap_result=resampled).confidence_interval
    if math.isnan(interval.low) or math.isnan(interval.high):
        raise BadInputError(f"the drop must be defined and vary on resamples, found NaN at n={n}; give more test data")
    return float(interval.low), float(interval.high)


def _random_groups(n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of the examples, shape (groups, members); -1 fills the groups that are one short."""
    if n < 2:
        raise BadInputError(f"a bootstrap needs at least 2 examples, found {n}; give more test data")
    groups = min(n, MOST_UNITS)
    size = math.ceil(n / groups)
    padded = np.full(groups * size, -1, dtype=np.intp)
    padded[:n] = rng.permutation(n)
    return padded.reshape(size, groups).T


def _normal_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(_checked(confidence))


def _checked(confidence: float) -> float:
    if not 0.5 < confidence < 1:
        raise BadInputError(f"confidence must be above 0.5 and below 1, found {confidence}; 0.95 is usual")
    return confidence
