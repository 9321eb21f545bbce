"""The bounds of an accuracy loss: by hand, in order, and wrong as rarely as told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.decisions.paired_bets import Pairs, loss_lower_bound, loss_upper_bound
from slipway.decisions.sequential import hopeless_after

pairs = st.builds(Pairs, st.integers(0, 300), st.integers(0, 300), st.integers(0, 5000))
alphas = st.floats(1e-4, 0.4)


def test_requests_that_all_agree_settle_a_point_when_the_mixture_of_bets_says() -> None:
    """By hand: after n the wealth is the mean over k of (1 + l_k 0.01)^n, l_k = 0.9 / 2^k / 0.99."""

    def wealth(n: int) -> float:
        return float(np.mean([(1 + 0.9 / 2**k / 0.99 * 0.01) ** n for k in range(8)]))

    first = next(n for n in range(2000) if wealth(n) >= 20)
    assert loss_upper_bound(Pairs(0, 0, first), 0.05) <= 0.01
    assert loss_upper_bound(Pairs(0, 0, first - 1), 0.05) > 0.01


@given(pairs, st.floats(0, 0.5), alphas)
def test_the_lower_bound_is_the_test_that_gives_up_candidates(seen: Pairs, margin: float, alpha: float) -> None:
    """The same bets, by counts instead of one after the other; that one may also have been settled before."""
    drops = np.repeat([-1.0, 1.0, 0.0], [seen.gained, seen.lost, seen.same])
    if loss_lower_bound(seen, alpha) > margin + 1e-9:
        assert hopeless_after(drops, margin, alpha) is not None


@given(pairs, alphas)
def test_what_was_found_lies_between_the_bounds(seen: Pairs, alpha: float) -> None:
    n = seen.gained + seen.lost + seen.same
    found = (seen.lost - seen.gained) / n if n else 0.0
    assert loss_lower_bound(seen, alpha) <= found + 1e-9
    assert found <= loss_upper_bound(seen, alpha) + 1e-9


@given(pairs, alphas)
def test_an_unknown_answer_taken_for_a_loss_only_raises_the_upper_bound(seen: Pairs, alpha: float) -> None:
    upper = loss_upper_bound(seen, alpha)
    assert loss_upper_bound(Pairs(seen.gained, seen.lost + 1, max(seen.same - 1, 0)), alpha) >= upper - 1e-9


@given(pairs, alphas)
def test_gains_and_losses_mirror_the_bounds(seen: Pairs, alpha: float) -> None:
    mirrored = Pairs(seen.lost, seen.gained, seen.same)
    assert loss_upper_bound(seen, alpha) == pytest.approx(-loss_lower_bound(mirrored, alpha), abs=1e-5)


def test_nothing_seen_bounds_nothing() -> None:
    assert loss_upper_bound(Pairs(0, 0, 0), 0.05) == 1
    assert loss_lower_bound(Pairs(0, 0, 0), 0.05) == -1


def test_a_long_rollout_does_not_overflow() -> None:
    assert 0.29 < loss_lower_bound(Pairs(0, 300_000, 700_000), 1e-9) < 0.3
    assert 0.3 < loss_upper_bound(Pairs(0, 300_000, 700_000), 1e-9) < 0.31


@pytest.mark.parametrize(("gained", "lost"), [(0.0, 0.02), (0.01, 0.03), (0.1, 0.12)])
def test_though_every_twenty_requests_are_a_look_the_bounds_are_wrong_as_rarely_as_told(
    gained: float, lost: float
) -> None:
    rng, trials, wrongly = np.random.default_rng(4), 150, 0
    for _ in range(trials):
        drawn = rng.random(800)
        gains, losses = np.cumsum(drawn < gained), np.cumsum(drawn > 1 - lost)
        seen = [Pairs(int(gains[n]), int(losses[n]), int(n + 1 - gains[n] - losses[n])) for n in range(19, 800, 20)]
        wrongly += any(loss_upper_bound(one, 0.1) < 0.02 for one in seen)
    assert wrongly / trials <= 0.1 + 3 * math.sqrt(0.09 / trials)
