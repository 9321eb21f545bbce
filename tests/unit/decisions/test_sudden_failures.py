from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slipway.decisions.sudden_failures import ANSWERED, CHAMPION_FAILED, FAILED, failing_evidence

SHARE, ALPHA = 0.01, 0.05
SETTLED = -math.log(ALPHA / 3 / 12)  # as in the canary: three gates' rules, three rules of the gate, four steps


def after(answered: int, failed: int) -> NDArray[np.int8]:
    return np.repeat([ANSWERED, FAILED], [answered, failed]).astype(np.int8)


@given(st.lists(st.sampled_from([ANSWERED, FAILED, CHAMPION_FAILED]), min_size=1, max_size=30), st.floats(0.001, 0.49))
def test_it_is_the_sum_of_a_bet_begun_with_each_request(outcomes: list[int], share: float) -> None:
    factor = {ANSWERED: 0.5, FAILED: 0.5 / share, CHAMPION_FAILED: math.exp(-100)}
    bets = [
        1000 / ((begun + 999) * (begun + 1000)) * math.prod(factor[one] for one in outcomes[begun - 1 :])
        for begun in range(1, len(outcomes) + 1)
    ]
    assert failing_evidence(np.array(outcomes, np.int8), share) == pytest.approx(math.log(sum(bets)), abs=1e-6)


@pytest.mark.parametrize(("answered", "most"), [(0, 4), (200, 4), (5_000, 5), (100_000, 6)])
def test_a_death_after_many_good_answers_is_noticed_within_a_few_requests(answered: int, most: int) -> None:
    assert failing_evidence(after(answered, most), SHARE) >= SETTLED
    assert failing_evidence(after(answered, 2), SHARE) < SETTLED


def test_one_that_fails_every_second_time_from_then_on_is_noticed_soon() -> None:
    outcomes = np.concatenate([after(5_000, 0), np.tile(np.array([FAILED, ANSWERED], np.int8), 15)])
    assert failing_evidence(outcomes, SHARE) >= SETTLED


def test_what_fails_the_champion_meanwhile_is_not_the_challengers() -> None:
    both = np.tile(np.array([FAILED, CHAMPION_FAILED], np.int8), 100)
    assert failing_evidence(both, SHARE) < 0


@pytest.mark.parametrize("outcomes", [after(0, 0), after(0, 100)], ids=["none", "all"])
def test_nothing_is_noticed_where_half_may_fail(outcomes: NDArray[np.int8]) -> None:
    assert failing_evidence(outcomes, 0.5) == -math.inf


@given(st.integers(0, 300), st.integers(0, 10), st.floats(0.001, 0.4), st.floats(1, 1.2))
def test_a_larger_share_is_never_exceeded_more_surely(answered: int, failed: int, share: float, times: float) -> None:
    outcomes = after(answered, failed)
    assert failing_evidence(outcomes, share * times) <= failing_evidence(outcomes, share) + 1e-9


def test_within_the_share_it_rarely_ever_concludes_at_any_look() -> None:
    """Looked at after each of 2,000 requests, at a level at which one in twenty would be allowed to."""
    failed = np.random.default_rng(5).random((1_000, 2_000)) < 0.05
    together, most = np.zeros(1_000), np.zeros(1_000)
    for begun, column in enumerate(failed.T, 1):
        together = (together + 1000 / ((begun + 999) * (begun + 1000))) * np.where(column, 10, 0.5)
        most = np.maximum(most, together)
    assert [failing_evidence(one.astype(np.int8), 0.05) for one in failed[:5]] == pytest.approx(np.log(together[:5]))
    assert np.sum(most >= 1 / ALPHA) <= 67  # more of 1,000 at 5% has a chance below 1%
