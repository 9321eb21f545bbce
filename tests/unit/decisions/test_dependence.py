"""Bursts are seen and thinned until their error rate holds; independent latencies are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from slipway.decisions.confidence_sequences import admissible_counts, quantile_bounds
from slipway.decisions.dependence import Sample, come_in_bursts, spread, spread_over


def bursts(rng: np.random.Generator, n: int, length: int, share: float = 0.1) -> NDArray[np.bool_]:
    """Whether each of n requests is slow: in bursts of ``length``, a share of all."""
    starts = rng.random(n // length + 1) < share
    return np.repeat(starts, length)[:n]


def bursty_ms(rng: np.random.Generator, n: int, length: int) -> NDArray[np.float64]:
    return np.where(bursts(rng, n, length), 30.0, 10.0) * rng.lognormal(0, 0.1, n)


def test_independent_latencies_are_nearly_always_kept_whole() -> None:
    rng = np.random.default_rng(1)
    blocks = [spread(rng.lognormal(0, 0.5, 2000), share).block for share in (0.95, 0.99) for _ in range(300)]
    assert np.mean(np.array(blocks) == 1) >= 0.99
    assert max(blocks) <= 2


@pytest.mark.parametrize("length", [2, 4, 16])
def test_bursts_are_thinned_to_about_one_of_each(length: int) -> None:
    rng = np.random.default_rng(2)
    blocks = [spread(bursty_ms(rng, 5000, length), 0.95).block for _ in range(50)]
    assert length / 2 <= min(blocks)
    assert np.median(blocks) >= length
    assert max(blocks) <= 4 * length


def test_without_thinning_the_bounds_of_bursts_are_wrong_more_often_than_told_and_with_it_not() -> None:
    """The p90, at which each bound is to be wrong in at most 20%, after every 100 of 1,000 to 6,000."""
    rng, trials = np.random.default_rng(3), 100
    quantile = 10 * np.exp(0.1 * 5)  # between the modes: 10% are above
    plain = thinned = 0
    for _ in range(trials):
        latencies = bursty_ms(rng, 6000, 16)
        looks = [latencies[:n] for n in range(1000, 6001, 100)]
        plain += any(_excluded(quantile, quantile_bounds(np.sort(seen), 0.9, 2 / 0.2)) for seen in looks)
        thinned += any(_excluded(quantile, spread(seen, 0.9).bounds(0.9, 1, 0.2)) for seen in looks)
    assert plain / trials > 0.3
    assert thinned / trials <= 0.2


def _excluded(quantile: float, bounds: tuple[float, float]) -> bool:
    return not bounds[0] <= quantile <= bounds[1]


def test_bounds_of_two_arms_at_alpha_are_those_at_four_over_alpha() -> None:
    ordered = np.arange(1000.0)
    assert Sample(ordered, 1).bounds(0.95, 2, 0.05) == quantile_bounds(ordered, 0.95, 4 / 0.05)
    assert Sample(ordered, 1).counts(0.99, 0.05) == admissible_counts(1000, 0.99, 2 / 0.05)


def test_all_blocks_together_spend_no_more_than_alpha() -> None:
    """Each doubling is wrong half as often; two arms in at most alpha in all."""
    ordered = np.arange(1000.0)
    for doublings in range(5):
        expected = quantile_bounds(ordered, 0.95, 4 * 2**doublings / 0.05)
        assert Sample(ordered, 2**doublings).bounds(0.95, 2, 0.05) == expected
    assert sum(2 * 0.05 / 4 / 2**doublings for doublings in range(40)) == pytest.approx(0.05)


def test_fewer_than_two_hundred_conclude_nothing() -> None:
    assert Sample(np.ones(199), 1).bounds(0.95, 2, 0.05) == (-np.inf, np.inf)
    assert Sample(np.ones(199), 1).counts(0.99, 0.05) == (0, 199)
    assert Sample(np.ones(200), 1).bounds(0.95, 2, 0.05) == (1, 1)


def test_a_block_keeps_every_so_many_th_latency_from_the_first() -> None:
    latencies = np.where(np.arange(4000) // 20 % 3 == 0, 30.0, 10.0) + np.arange(4000) / 1e6
    sample = spread_over(latencies, 20)
    assert sample.block > 1
    assert sample.ordered.tolist() == sorted(latencies[:: sample.block].tolist())


def test_ten_in_a_row_come_in_bursts_and_one_in_a_hundred_does_not() -> None:
    assert come_in_bursts(np.arange(1000) % 200 < 10)
    assert not come_in_bursts(np.arange(1000) % 100 == 0)


def test_neighbours_are_compared_with_those_further_apart_by_hand() -> None:
    """Of 1,000 places 999 are 1 apart and 16 x 975.5 are 17 to 32 apart: a pair is a neighbour's with 999 / 16607.

    Every 20th, and every second of these with a neighbour: 25 neighbours, and 49 + 49 pairs 19 to 21 apart.
    """
    every_20th, with_neighbours = np.arange(1000) % 20 == 0, np.arange(1000) % 40 == 1
    assert binom.sf(24, 25 + 49 + 49, 999 / 16607) < 0.001 / 2
    assert not come_in_bursts(every_20th)
    assert come_in_bursts(every_20th | with_neighbours)


def test_an_engine_that_becomes_slow_for_good_does_not_come_in_bursts() -> None:
    """Else the worse it became, the longer nobody would believe it."""
    rng = np.random.default_rng(8)
    fine, slow = rng.random((100, 1000)) < 0.02, rng.random((100, 500)) < 0.5
    burst = [come_in_bursts(np.concatenate(one)) for one in zip(fine, slow, strict=True)]
    assert np.mean(burst) <= 0.1


@pytest.mark.parametrize("exceeds", [[], [True], [False] * 100, [True] * 100, [True, False] * 5, [True, True]])
def test_too_few_or_unvarying_latencies_pass_for_independent(exceeds: list[bool]) -> None:
    assert not come_in_bursts(np.array(exceeds, dtype=bool))


def test_no_latencies_are_no_sample() -> None:
    assert spread(np.array([]), 0.95).n == 0
