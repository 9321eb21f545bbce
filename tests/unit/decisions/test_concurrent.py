"""What of two arms is compared: the same odds at every step, so that a changing load tells nothing."""

from __future__ import annotations

import numpy as np
import pytest

from slipway.decisions.concurrent import concurrent
from slipway.records.rollout import StepStart

ODDS = [99.0, 19.0, 3.0, 1.0]


def start(champion: int, challenger: int) -> StepStart:
    return StepStart(champion_answers=champion, challenger_answers=challenger)


def test_without_a_start_everything_is_compared() -> None:
    champion, challenger = concurrent(np.arange(5.0), np.arange(3.0), ODDS, ())
    assert (len(champion), len(challenger)) == (5, 3)


def test_at_the_first_step_everything_is_compared() -> None:
    champion, challenger = concurrent(np.arange(9900.0), np.arange(100.0), ODDS, [start(0, 0)])
    assert (len(champion), len(challenger)) == (9900, 100)


def test_at_the_last_step_each_arm_has_as_many_of_every_step() -> None:
    """By hand: of 99 x 200, 19 x 200, 3 x 200 and 400 every 99th, 19th, 3rd and 1st."""
    starts = [start(0, 0), start(19800, 200), start(23600, 400), start(24200, 600)]
    of_step = np.repeat([0.0, 1.0, 2.0, 3.0], [19800, 3800, 600, 400])
    champion, challenger = concurrent(of_step, np.repeat([0.0, 1.0, 2.0, 3.0], [200, 200, 200, 400]), ODDS, starts)
    assert np.bincount(champion.astype(int)).tolist() == [200, 200, 200, 400]
    assert np.bincount(challenger.astype(int)).tolist() == [200, 200, 200, 400]


def test_a_challenger_with_most_of_the_traffic_is_thinned_instead() -> None:
    champion, challenger = concurrent(np.zeros(300), np.zeros(1000), [1.0, 1 / 9], [start(0, 0), start(200, 200)])
    assert len(champion) == 300
    assert len(challenger) == 200 + 89  # every ninth of 800


@pytest.mark.parametrize("more", [1, 50, 1000])
def test_what_is_compared_only_grows_while_a_step_lasts(more: int) -> None:
    """Else no sequence of looks would be one martingale."""
    rng = np.random.default_rng(1)
    champion, challenger = rng.random(30000), rng.random(3000)
    starts = [start(0, 0), start(19800, 200), start(23600, 400)]
    before = concurrent(champion[:24000], challenger[:500], ODDS, starts)
    after = concurrent(champion[: 24000 + more], challenger[: 500 + more], ODDS, starts)
    for shorter, longer in zip(before, after, strict=True):
        assert longer[: len(shorter)].tolist() == shorter.tolist()
