"""Bounds of a paired drop: against published intervals, an independent inversion, scipy, and simulated coverage."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

from slipway.decisions import paired
from slipway.decisions.paired import bca_bounds, bca_statistic_bounds, examples_to_decide, tango_bounds
from slipway.errors import BadInputError
from tests.unit.decisions.builders import bounded, counted


@st.composite
def paired_counts(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 3000))
    lost = draw(st.integers(0, n))
    return n, lost, draw(st.integers(0, n - lost))


@pytest.mark.parametrize(
    ("n", "first_only", "second_only", "two_sided", "published"),
    [
        pytest.param(44, 0, 1, 0.90, (-0.096, 0.037), id="Tango 1998, cross-over trial of contact-lens disinfection"),
        pytest.param(32, 9, 3, 0.95, (-0.027, 0.390), id="Tango 1998, second example"),
        pytest.param(86, 16, 8, 0.95, (-0.020, 0.207), id="Agresti and Min 2005"),
        pytest.param(21, 1, 7, 0.95, (-0.517, -0.026), id="Fagerland, Lydersen and Laake 2014"),
        pytest.param(161, 6, 16, 0.95, (-0.1240, -0.0054), id="Cavo 2012, in R's contingencytables"),
        pytest.param(618, 28, 25, 0.90, (-0.0148, 0.0247), id="scoreci.mp(25, 28, 618, 0.90) of R's PropCIs"),
    ],
)
def test_tango_agrees_with_published_intervals(
    n: int, first_only: int, second_only: int, two_sided: float, published: tuple[float, float]
) -> None:
    digits = 4 if n in (161, 618) else 3
    bounds = tango_bounds(n, first_only, second_only, (1 + two_sided) / 2)
    assert tuple(round(bound, digits) for bound in bounds) == published


@pytest.mark.parametrize("counts", [(30, 7, 2), (200, 3, 9), (1000, 31, 22), (15, 5, 0), (50, 0, 3)])
def test_tango_statistic_equals_the_quantile_at_the_bounds(counts: tuple[int, int, int]) -> None:
    """The restricted fit is found here by maximising the likelihood itself, not by Tango's quadratic."""
    n, lost, gained = counts

    def statistic(drop: float) -> float:
        def minus_log_likelihood(share_gained: float) -> float:
            shares = np.array([share_gained + drop, share_gained, 1 - 2 * share_gained - drop])
            counted = np.array([lost, gained, n - lost - gained])
            return -float(np.sum(np.where(counted > 0, counted * np.log(np.maximum(shares, 1e-300)), 0)))

        span = (max(0.0, -drop), (1 - drop) / 2)
        fitted = optimize.minimize_scalar(minus_log_likelihood, bounds=span, method="bounded", options={"xatol": 1e-12})
        return (lost - gained - n * drop) / math.sqrt(n * (2 * fitted.x + drop - drop * drop))

    lower, upper = tango_bounds(n, lost, gained, 0.95)
    z = NormalDist().inv_cdf(0.95)
    assert statistic(lower) == pytest.approx(z, rel=1e-4)
    assert statistic(upper) == pytest.approx(-z, rel=1e-4)


def test_tango_without_discordance_has_its_closed_form() -> None:
    z2 = NormalDist().inv_cdf(0.95) ** 2
    assert tango_bounds(500, 0, 0, 0.95) == pytest.approx((-z2 / (500 + z2), z2 / (500 + z2)))


def test_tango_with_every_example_lost_has_its_closed_form() -> None:
    z2 = NormalDist().inv_cdf(0.95) ** 2
    assert tango_bounds(40, 40, 0, 0.95) == pytest.approx(((40 - z2) / (40 + z2), 1))
    assert tango_bounds(1, 0, 1, 0.95) == pytest.approx((-1, (z2 - 1) / (z2 + 1)))


@given(paired_counts(), st.floats(0.501, 0.999))
def test_tango_bounds_enclose_the_drop_and_mirror(counts: tuple[int, int, int], confidence: float) -> None:
    n, lost, gained = counts
    lower, upper = tango_bounds(n, lost, gained, confidence)
    assert -1 <= lower <= (lost - gained) / n <= upper <= 1
    assert tango_bounds(n, gained, lost, confidence) == (-upper, -lower)


@given(paired_counts())
def test_tango_bounds_rise_with_each_example_lost(counts: tuple[int, int, int]) -> None:
    n, lost, gained = counts
    if lost + gained < n:
        fewer, more = tango_bounds(n, lost, gained, 0.95), tango_bounds(n, lost + 1, gained, 0.95)
        assert fewer[0] <= more[0] + 1e-12
        assert fewer[1] <= more[1] + 1e-12


@given(paired_counts(), st.floats(0.501, 0.99))
def test_tango_bounds_widen_with_confidence(counts: tuple[int, int, int], confidence: float) -> None:
    narrow, wide = tango_bounds(*counts, confidence), tango_bounds(*counts, confidence + 0.009)
    assert wide[0] <= narrow[0] + 1e-12
    assert narrow[1] <= wide[1] + 1e-12


@pytest.mark.parametrize("counts", [(0, 0, 0), (5, -1, 0), (5, 0, -1), (5, 3, 3)])
def test_tango_refuses_counts_that_do_not_fit(counts: tuple[int, int, int]) -> None:
    with pytest.raises(BadInputError, match="must fit in n"):
        tango_bounds(*counts, 0.95)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 95.0, math.nan])
def test_confidence_must_be_a_share_above_one_half(confidence: float) -> None:
    with pytest.raises(BadInputError, match="confidence must be"):
        tango_bounds(10, 1, 1, confidence)
    with pytest.raises(BadInputError, match="confidence must be"):
        bca_bounds(np.array([0.0, 1.0]), confidence)


@pytest.mark.parametrize(("n", "lost", "gained"), [(300, 0.06, 0.05), (1000, 0.03, 0.02), (2000, 0.012, 0.002)])
def test_each_tango_bound_misses_in_about_one_trial_of_twenty(n: int, lost: float, gained: float) -> None:
    trials = np.random.default_rng(1).multinomial(n, [lost, gained, 1 - lost - gained], size=2000)
    bounds = np.array([tango_bounds(n, int(b), int(c), 0.95) for b, c, _ in trials])
    true = lost - gained
    assert 0.03 <= np.mean(bounds[:, 0] > true) <= 0.065
    assert 0.03 <= np.mean(bounds[:, 1] < true) <= 0.065


def skewed(n: int, seed: int = 3) -> NDArray[np.float64]:
    return np.random.default_rng(seed).exponential(size=n) - 0.5


@pytest.mark.parametrize("n", [40, 3000])
def test_bca_agrees_with_scipy_on_the_mean(n: int) -> None:
    """At 3,000 examples groups are resampled, in scipy's own run single examples."""
    drops = skewed(n)
    expected = stats.bootstrap(
        (drops,), np.mean, confidence_level=0.9, method="BCa", n_resamples=9999, batch=500, rng=np.random.default_rng(5)
    ).confidence_interval
    assert bca_bounds(drops, 0.95) == pytest.approx(tuple(expected), abs=0.15 * float(stats.sem(drops)))


def test_bca_follows_the_skew() -> None:
    drops = skewed(60)
    lower, upper = bca_bounds(drops, 0.95)
    assert upper - drops.mean() > 1.1 * (drops.mean() - lower)


def test_bca_is_the_same_for_the_same_seed_only() -> None:
    drops = skewed(50)
    assert bca_bounds(drops, 0.95, seed=1) == bca_bounds(drops, 0.95, seed=1)
    assert bca_bounds(drops, 0.95, seed=1) != bca_bounds(drops, 0.95, seed=2)


def test_bca_upper_bound_covers_the_true_mean() -> None:
    covered = [bca_bounds(skewed(80, seed), 0.95)[1] >= 0.5 for seed in range(120)]
    assert 0.89 <= np.mean(covered) <= 0.99


def test_bca_of_a_constant_is_that_value() -> None:
    assert bca_bounds(np.full(20, 0.1), 0.95) == (0.1, 0.1)
    assert bca_statistic_bounds(lambda examples: 0.0, 20, 0.95) == (0.0, 0.0)


@pytest.mark.parametrize("n", [0, 1])
def test_bca_refuses_fewer_than_two_examples(n: int) -> None:
    with pytest.raises(BadInputError, match="at least 2 examples"):
        bca_bounds(np.zeros(n), 0.95)


def test_bca_refuses_drops_that_are_not_numbers() -> None:
    with pytest.raises(BadInputError, match="found 1 of 3 not"):
        bca_bounds(np.array([0.0, np.nan, 1.0]), 0.95)


def test_bca_refuses_a_statistic_that_is_undefined_on_a_resample() -> None:
    def undefined_without_example_0(examples: NDArray[np.intp]) -> float:
        return float(np.mean(examples)) if 0 in examples else math.nan

    with pytest.raises(BadInputError, match="defined and vary"):
        bca_statistic_bounds(undefined_without_example_0, 10, 0.95)


def test_bca_cost_is_bounded_and_every_example_can_be_drawn() -> None:
    seen = np.zeros(10_001, dtype=bool)
    calls = 0

    def statistic(examples: NDArray[np.intp]) -> float:
        nonlocal calls
        calls += 1
        assert abs(len(examples) - 10_001) < 500
        seen[examples] = True
        return float(np.mean(examples))

    bca_statistic_bounds(statistic, 10_001, 0.95)
    assert calls <= paired.RESAMPLES + paired.MOST_UNITS + 2
    assert seen.all()


def test_set_level_statistic_of_the_mean_is_the_bound_of_the_mean() -> None:
    drops = skewed(100)
    of_the_mean = bca_bounds(drops, 0.95)
    assert bca_statistic_bounds(lambda i: float(np.mean(drops[i])), 100, 0.95) == pytest.approx(of_the_mean, rel=1e-12)


def test_groups_that_are_one_short_weigh_less() -> None:
    """Of 3,001 examples 2,000 groups of one or two are made: their means alone would weigh the single ones twice."""
    drops = np.arange(3001.0)
    set_level = bca_statistic_bounds(lambda i: float(np.mean(drops[i])), 3001, 0.95)
    assert bca_bounds(drops, 0.95) == pytest.approx(set_level, rel=1e-12)


def test_identical_predictions_need_z_squared_over_the_margin() -> None:
    """z^2 (1 - 0.01) / 0.01 = 267.8."""
    assert examples_to_decide(counted(50, 0, 0), 0.01) == 268
    assert tango_bounds(268, 0, 0, 0.95)[1] <= 0.01 < tango_bounds(267, 0, 0, 0.95)[1]


@pytest.mark.parametrize(("lost", "gained", "bound"), [(5, 4, 1), (7, 3, 0)])
def test_needed_examples_decide_and_a_tenth_fewer_do_not(lost: int, gained: int, bound: int) -> None:
    """At 0.2% drop the upper bound decides (PASS), at 0.8% the lower one (FAIL)."""
    needed = examples_to_decide(counted(500, lost, gained), 0.005)
    assert needed is not None

    def decided(n: float) -> bool:
        value = tango_bounds(round(n), round(n * lost / 500), round(n * gained / 500), 0.95)[bound]
        return value <= 0.005 if bound else value > 0.005

    assert decided(needed * 1.01)
    assert not decided(needed * 0.9)


def test_without_counts_the_bound_closes_in_with_the_square_root() -> None:
    """The deciding bound is three times as far from the drop as the margin: nine times the examples."""
    assert examples_to_decide(bounded(0.02, 0.005, 0.05, metric="mae", n=100), 0.03) == pytest.approx(900, abs=1)
    assert examples_to_decide(bounded(0.04, 0.01, 0.05, metric="mae", n=100), 0.03) == pytest.approx(900, abs=1)


def test_a_drop_on_the_margin_is_never_decided() -> None:
    assert examples_to_decide(counted(1000, 10, 0), 0.01) is None
    assert examples_to_decide(bounded(0.0100001, 0.005, 0.02), 0.01) is None


@given(paired_counts(), st.floats(0, 0.2))
def test_needed_examples_are_more_than_were_seen(counts: tuple[int, int, int], max_drop: float) -> None:
    needed = examples_to_decide(counted(*counts), max_drop)
    assert needed is None or counts[0] < needed <= paired.MOST_EXAMPLES


def test_drops_equal_but_for_rounding_have_no_spread_to_bootstrap() -> None:
    scores = np.random.default_rng(0).random(50)
    drops = (scores + 0.3) - scores
    assert len(set(drops)) > 1
    assert bca_bounds(drops, 0.95) == pytest.approx((0.3, 0.3))
