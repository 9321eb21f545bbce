"""Giving up early: the error rate holds at any look, the hopeless go soon, and the sound stay."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from slipway.decisions.sequential import drop_lower_bound, hopeless_after
from slipway.errors import BadInputError

Drops = NDArray[np.float64]
MAX_DROP = 0.01


def simulated(lost: float, gained: float, n: int, trials: int, seed: int = 11) -> Drops:
    """Drops, shape (trials, n), of candidates that lose and gain each example with these probabilities."""
    drawn = np.random.default_rng(seed).random((trials, n))
    return np.where(drawn < lost, 1.0, np.where(drawn < lost + gained, -1.0, 0.0))


def given_up(drops: Drops, alpha: float, max_drop: float = MAX_DROP) -> list[int]:
    """After how many examples, of those given up."""
    return [after for own in drops if (after := hopeless_after(own, max_drop, alpha)) is not None]


def zero_one(most: int = 300) -> st.SearchStrategy[Drops]:
    return st.lists(st.sampled_from([1.0, 0.0, -1.0]), max_size=most).map(lambda drawn: np.array(drawn, dtype=float))


def in_bounds(most: int = 100) -> st.SearchStrategy[Drops]:
    return arrays.arrays(np.float64, st.integers(0, most), elements=st.floats(-1, 1))


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize(("lost", "gained"), [(0.01, 0.0), (0.03, 0.02), (0.3, 0.29), (0.505, 0.495)])
def test_at_the_margin_few_are_ever_given_up_though_every_example_is_a_look(
    lost: float, gained: float, alpha: float
) -> None:
    trials = 2000
    wrongly = len(given_up(simulated(lost, gained, 1000, trials), alpha)) / trials
    assert wrongly <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


def test_at_the_margin_of_fractional_scores_few_are_ever_given_up() -> None:
    """Scores of a real-valued metric, skewed as badly as [-1, 1] allows: rare large losses."""
    drawn = np.random.default_rng(5).random((2000, 800))
    drops = np.where(drawn < 0.05, 0.865, -0.035)
    assert float(np.mean(drops)) == pytest.approx(MAX_DROP, abs=0.001)
    assert len(given_up(drops, 0.05)) / 2000 <= 0.065


def test_an_error_rate_that_looking_often_spoils_would_be_seen() -> None:
    """The same trials, judged by a fixed-sample z test after each example, are wrong far more often than alpha."""
    drops = simulated(0.3, 0.29, 1000, 500)
    counts = np.arange(1, 1001)
    means = np.cumsum(drops, axis=1) / counts
    spread = np.sqrt(np.maximum(np.cumsum(drops**2, axis=1) / counts - means**2, 1e-9) / counts)
    z_ever_above = np.any((means - MAX_DROP)[:, 30:] > 1.645 * spread[:, 30:], axis=1)
    assert np.mean(z_ever_above) > 0.15
    assert len(given_up(drops, 0.05)) / 500 <= 0.065


def test_a_collapsed_candidate_goes_within_thirty_examples() -> None:
    """10% against 99%, as a broken quantization of ten classes does."""
    after = given_up(simulated(0.891, 0.001, 30, 500), alpha=0.001)
    assert len(after) == 500
    assert np.median(after) <= 18


@pytest.mark.parametrize(("lost", "gained", "median"), [(0.05, 0.0, 450), (0.06, 0.01, 750)])
def test_five_points_worse_goes_within_hundreds(lost: float, gained: float, median: int) -> None:
    after = given_up(simulated(lost, gained, 3000, 200), alpha=0.001)
    assert len(after) == 200
    assert np.median(after) <= median


@pytest.mark.parametrize(("lost", "gained"), [(0.0, 0.0), (0.02, 0.02), (0.008, 0.003), (0.01, 0.03)])
def test_a_sound_candidate_is_never_given_up(lost: float, gained: float) -> None:
    assert given_up(simulated(lost, gained, 3000, 500), alpha=0.001) == []


def test_losses_alone_are_settled_when_the_mixture_of_bets_says() -> None:
    """By hand: after n losses the wealth is the mean over k of (1 + l_k 0.99)^n, l_k = 0.9 / 2^k / 1.01."""

    def wealth(n: int) -> float:
        return float(np.mean([(1 + 0.9 / 2**k / 1.01 * 0.99) ** n for k in range(8)]))

    (after,) = given_up(np.ones((1, 50)), alpha=0.001)
    assert wealth(after - 1) < 1000 <= wealth(after)


def test_reference_minus_candidate_is_the_orientation() -> None:
    assert hopeless_after(np.ones(50), MAX_DROP, 0.001) is not None
    assert hopeless_after(-np.ones(50), MAX_DROP, 0.001) is None


def test_the_wealth_of_a_long_run_does_not_overflow() -> None:
    drops = simulated(0.9, 0.0, 100_000, 1)[0]
    assert hopeless_after(drops, MAX_DROP, 1e-300) is not None
    assert hopeless_after(-drops, MAX_DROP, 0.5) is None


def test_no_examples_settle_nothing() -> None:
    assert hopeless_after(np.array([]), MAX_DROP, 0.001) is None
    assert drop_lower_bound(np.array([]), 0.001) == -1


@given(zero_one(), st.floats(0, 0.5), st.floats(1e-6, 0.5))
def test_the_answer_is_a_number_of_the_examples_seen(drops: Drops, max_drop: float, alpha: float) -> None:
    after = hopeless_after(drops, max_drop, alpha)
    assert after is None or 1 <= after <= len(drops)


@given(zero_one(), zero_one(50), st.floats(0, 0.5), st.floats(1e-6, 0.5))
def test_later_examples_do_not_change_when_it_was_settled(
    drops: Drops, later: Drops, max_drop: float, alpha: float
) -> None:
    after = hopeless_after(drops, max_drop, alpha)
    with_later = hopeless_after(np.concatenate([drops, later]), max_drop, alpha)
    assert with_later == after if after is not None else with_later is None or with_later > len(drops)


@given(in_bounds(), st.floats(0, 0.5), st.floats(1e-6, 0.4))
def test_a_laxer_margin_or_a_stricter_alpha_never_gives_up_sooner(drops: Drops, max_drop: float, alpha: float) -> None:
    after = hopeless_after(drops, max_drop, alpha) or math.inf
    assert after <= (hopeless_after(drops, max_drop + 0.05, alpha) or math.inf)
    assert after <= (hopeless_after(drops, max_drop, alpha / 10) or math.inf)


@given(in_bounds(), st.floats(0, 0.5), st.data())
def test_a_larger_loss_never_gives_up_later(drops: Drops, max_drop: float, data: st.DataObject) -> None:
    worse = np.minimum(drops + data.draw(st.floats(0, 1)), 1)
    assert (hopeless_after(worse, max_drop, 0.05) or math.inf) <= (hopeless_after(drops, max_drop, 0.05) or math.inf)


@given(zero_one(), st.floats(1e-6, 0.5))
def test_the_lower_bound_parts_the_settled_margins_from_the_open_ones(drops: Drops, alpha: float) -> None:
    bound = drop_lower_bound(drops, alpha)
    assert -1 <= bound < 1
    assert hopeless_after(drops, max(bound, 0) + 1e-9, alpha) is None
    if bound > 1e-9:
        assert hopeless_after(drops, bound - 1e-9, alpha) is not None


def test_the_lower_bound_is_above_the_true_drop_as_rarely_as_told() -> None:
    """The candidates were stopped at the worst moment: just when they were given up."""
    wrongly = 0
    for drops in simulated(0.06, 0.04, 400, 500):
        after = hopeless_after(drops, 0.0, 0.1)
        wrongly += drop_lower_bound(drops[:after], 0.1) > 0.02
    assert wrongly / 500 <= 0.14


@pytest.mark.parametrize("drop", [1.5, -1.01, math.nan, math.inf])
def test_drops_outside_their_range_are_bad_input(drop: float) -> None:
    with pytest.raises(BadInputError, match="found 1 of 3 that do not"):
        hopeless_after(np.array([0.0, drop, 0.0]), MAX_DROP, 0.05)
    with pytest.raises(BadInputError, match="found 1 of 3 that do not"):
        drop_lower_bound(np.array([0.0, drop, 0.0]), 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan])
def test_alpha_must_be_a_share(alpha: float) -> None:
    with pytest.raises(BadInputError, match="alpha must be"):
        hopeless_after(np.zeros(3), MAX_DROP, alpha)


@pytest.mark.parametrize("max_drop", [-0.01, math.nan])
def test_a_negative_margin_is_bad_input(max_drop: float) -> None:
    with pytest.raises(BadInputError, match="max_drop must be"):
        hopeless_after(np.zeros(3), max_drop, 0.05)
