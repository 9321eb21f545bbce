"""Bounds for every look at once: the textbook formula, the error rates, the edges and what more data does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import betaln

from slipway.decisions.confidence_sequences import admissible_counts, quantile_bounds, share_bounds
from slipway.errors import BadInputError

shares = st.sampled_from([0.01, 0.3, 0.5, 0.95, 0.99])
limits = st.sampled_from([4 / 0.05, 20.0, 2.0, 4 * 4 * 4 / 0.05])
counts = st.integers(0, 3000)


def log_mixture(hits: NDArray[np.int64], n: int, share: float) -> NDArray[np.float64]:
    """Robbins' mixture as DESIGN writes it, by scipy."""
    a, b = 20 * share, 20 * (1 - share)
    found: NDArray[np.float64] = (
        betaln(a + hits, b + n - hits) - betaln(a, b) - hits * np.log(share) - (n - hits) * np.log1p(-share)
    )
    return found


@given(counts, shares, limits)
def test_the_admissible_counts_are_those_whose_mixture_is_below_the_limit(n: int, share: float, limit: float) -> None:
    hits = np.arange(n + 1)
    below = hits[log_mixture(hits, n, share) < math.log(limit) - 1e-9]
    assert admissible_counts(n, share, limit) == (below.min(), below.max())


def test_the_mixture_of_one_draw_by_hand() -> None:
    """B(19+1, 1) / (B(19, 1) 0.95) = 1 of a hit, B(19, 2) / (B(19, 1) 0.05) = 1 of a miss: nothing is settled."""
    assert admissible_counts(1, 0.95, 1.01) == (0, 1)


def test_a_p95_has_an_upper_bound_after_125_draws_and_none_before() -> None:
    """By hand: B(19+n, 1) / (B(19, 1) 0.95^n) = 19 / (19+n) / 0.95^n reaches 4 / 0.05 = 80 there."""
    first = next(n for n in range(1000) if 19 / (19 + n) / 0.95**n >= 80)
    assert quantile_bounds(np.arange(first - 1.0), 0.95, 80)[1] == math.inf
    assert quantile_bounds(np.arange(float(first)), 0.95, 80)[1] == first - 1
    assert first == 125


def test_nothing_is_known_of_no_draws() -> None:
    assert admissible_counts(0, 0.95, 80) == (0, 0)
    assert quantile_bounds(np.array([]), 0.95, 80) == (-math.inf, math.inf)
    assert share_bounds(0, 0, 40) == (0, 1)


def test_the_bounds_of_equal_values_are_that_value() -> None:
    assert quantile_bounds(np.full(1000, 7.0), 0.95, 80) == (7, 7)


@given(counts, shares)
def test_the_quantile_of_the_draws_lies_between_its_bounds(n: int, share: float) -> None:
    ordered = np.arange(n, dtype=float)
    lower, upper = quantile_bounds(ordered, share, 80)
    assert lower <= share * n <= upper


@given(counts, shares, st.floats(2, 1e6), st.floats(1, 100))
def test_a_stricter_limit_never_narrows_the_bounds(n: int, share: float, limit: float, times: float) -> None:
    ordered = np.arange(n, dtype=float)
    (lower, upper), (wider_lower, wider_upper) = (
        quantile_bounds(ordered, share, limit),
        quantile_bounds(ordered, share, limit * times),
    )
    assert wider_lower <= lower
    assert upper <= wider_upper


@given(st.lists(st.integers(0, 5), min_size=1, max_size=300), st.integers(-3, 3))
def test_the_bounds_move_with_the_values(drawn: list[int], shift: int) -> None:
    ordered = np.sort(np.array(drawn, dtype=float))
    lower, upper = quantile_bounds(ordered, 0.5, 20)
    assert quantile_bounds(ordered + shift, 0.5, 20) == (lower + shift, upper + shift)


def ever_wrong(drawn: NDArray[np.float64], quantile: float, share: float, limit: float) -> bool:
    """Whether the bounds exclude ``quantile`` after any number of draws: by the counts, without ordering anew."""
    below, upto = np.cumsum(drawn < quantile), np.cumsum(drawn <= quantile)
    for n in range(1, len(drawn) + 1):
        fewest, most = admissible_counts(n, share, limit)
        if upto[n - 1] < fewest or below[n - 1] > most:
            return True
    return False


@pytest.mark.parametrize("levels", [10, 10**9])
def test_though_every_draw_is_a_look_the_bounds_are_ever_wrong_as_rarely_as_told(levels: int) -> None:
    """Of continuous draws and of draws full of ties."""
    rng, trials, limit = np.random.default_rng(5), 400, 5.0
    drawn = np.ceil(rng.random((trials, 400)) * levels) / levels
    wrongly = sum(ever_wrong(own, 0.9, 0.9, limit) for own in drawn) / trials
    assert wrongly <= 1 / limit
    assert wrongly > 0.01 or levels == 10


def test_bounds_of_a_fixed_sample_would_be_wrong_far_more_often() -> None:
    """The same draws, by the binomial interval at the same 80%, after every draw."""
    drawn = np.random.default_rng(5).random((400, 400)) < 0.9
    hits, n = np.cumsum(drawn, axis=1), np.arange(1, 401)
    away = np.abs(hits - 0.9 * n) > 1.282 * np.sqrt(0.09 * n)
    assert np.mean(away[:, 30:].any(axis=1)) > 0.4


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), limits)
def test_the_bounds_of_a_share_enclose_what_was_found_and_nothing_just_outside(
    found: tuple[int, int], limit: float
) -> None:
    hits, n = found
    lower, upper = share_bounds(hits, n, limit)
    assert lower <= hits / n <= upper

    def log_ratio(share: float) -> float:
        mixed = float(betaln(0.5 + hits, 0.5 + n - hits) - betaln(0.5, 0.5))
        return mixed - hits * math.log(share) - (n - hits) * math.log1p(-share)

    if hits:
        assert log_ratio(lower) == pytest.approx(math.log(limit), abs=1e-4)
    if hits < n and upper < 1:
        assert log_ratio(upper) == pytest.approx(math.log(limit), abs=1e-4)


def test_the_share_of_one_hit_by_hand() -> None:
    """B(3/2, 1/2) / B(1/2, 1/2) = 1/2, so that 1/2 / p reaches 40 at p = 1/80."""
    assert share_bounds(1, 1, 40) == (pytest.approx(1 / 80), 1.0)
    assert share_bounds(0, 1, 40) == (0.0, pytest.approx(79 / 80))


def test_though_every_draw_is_a_look_the_share_is_ever_excluded_as_rarely_as_told() -> None:
    drawn = np.random.default_rng(9).random((200, 150)) < 0.02
    wrongly = 0
    for own in np.cumsum(drawn, axis=1):
        bounds = [share_bounds(int(hits), n + 1, 10.0) for n, hits in enumerate(own)]
        wrongly += any(not lower <= 0.02 <= upper for lower, upper in bounds)
    assert wrongly / 200 <= 0.1


@pytest.mark.parametrize(
    ("n", "share", "limit", "told"),
    [
        (-1, 0.5, 80, "at least 0"),
        (5, 1.0, 80, "share must be"),
        (5, math.nan, 80, "share must be"),
        (5, 0.5, 1, "limit"),
    ],
)
def test_what_cannot_be_bounded_is_bad_input(n: int, share: float, limit: float, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        admissible_counts(n, share, limit)


def test_more_hits_than_draws_are_bad_input() -> None:
    with pytest.raises(BadInputError, match="of 3 draws 0 to 3 can be hits, found 4"):
        share_bounds(4, 3, 40)
