from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from slipway.errors import BadInputError
from slipway.measure.speedup import START_SPREAD, paired_speedup
from slipway.records import Interval

Blocks = list[NDArray[np.int64]]


def blocks(rng: np.random.Generator, means_ns: NDArray[np.float64]) -> Blocks:
    return [rng.gamma(100, mean / 100, size=50).astype(np.int64) for mean in means_ns]


def width(interval: Interval) -> float:
    return interval.upper / interval.lower - 1


def test_drift_of_the_host_cancels() -> None:
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 12) * 1e6
    speedup = paired_speedup(blocks(rng, 2 * drift), blocks(rng, drift))
    assert speedup.lower < speedup.value < speedup.upper
    assert speedup.value == pytest.approx(2, rel=0.03)
    assert width(speedup) < 0.1


@pytest.mark.parametrize("rounds", [2, 4, 6, 12])
def test_openings_that_differ_are_covered_as_often_as_it_says(rounds: int) -> None:
    """Over 200 sessions of equal engines, each opening 3% faster or slower by chance, as memory happens to lie."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        layout = np.exp(0.03 * rng.standard_normal((2, rounds))) * 1e6
        speedup = paired_speedup(blocks(rng, layout[0]), blocks(rng, layout[1]))
        covered += speedup.lower <= 1 <= speedup.upper
    assert covered >= 188


def test_a_start_that_differs_by_its_spread_is_covered() -> None:
    """However little the rounds of one start differ among each other."""
    block = np.full(50, 1_000_000)
    speedup = paired_speedup([block] * 12, [(block / (1 + START_SPREAD)).astype(np.int64) + 1] * 12)
    assert speedup.lower <= 1 <= speedup.upper
    assert width(speedup) == pytest.approx(2 * START_SPREAD, rel=0.02)


def test_two_slow_spells_of_twelve_rounds_move_it_little() -> None:
    rng = np.random.default_rng(2)
    steady = np.full(12, 1e6)
    disturbed = steady * np.where(np.isin(np.arange(12), (3, 7)), 2.0, 1.0)
    speedup = paired_speedup(blocks(rng, steady), blocks(rng, disturbed))
    assert speedup.value == pytest.approx(1, rel=0.02)
    assert width(speedup) < 0.1


def test_a_host_that_disturbs_every_round_widens_it() -> None:
    rng = np.random.default_rng(3)
    steady, shaken = np.full(12, 1e6), 1e6 * np.exp(0.3 * rng.standard_normal(12))
    assert width(paired_speedup(blocks(rng, steady), blocks(rng, shaken))) > 0.2


@pytest.mark.parametrize(("rounds", "of_candidate"), [(1, 1), (3, 2), (0, 0)])
def test_blocks_must_pair_up(rounds: int, of_candidate: int) -> None:
    block = np.array([1, 2, 3])
    with pytest.raises(BadInputError, match="two or more rounds"):
        paired_speedup([block] * rounds, [block] * of_candidate)
