"""Ranges: what each method keeps of a distribution, judged on the values themselves."""

from __future__ import annotations

import numpy as np
import pytest

from slipway.variants.histogram import Histogram
from slipway.variants.ranges import Method, Range, chosen_range

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.standard_normal(100_000)
RELU = np.maximum(RANDOM.standard_normal(100_000), 0)
GELU = np.where(NORMAL < 0, 0.05 * NORMAL, NORMAL)
HEAVY = RANDOM.standard_t(3, 100_000)
OUTLIER = np.append(RANDOM.standard_normal(100_000), 400.0)
CALLED = {"normal": NORMAL, "relu": RELU, "gelu": GELU, "heavy": HEAVY, "outlier": OUTLIER}
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")


def chosen(values: np.ndarray, method: Method, percentile: float = 99.99) -> Range:
    histogram = Histogram()
    histogram.add(values)
    return chosen_range(histogram, method, percentile)


def squared_error(values: np.ndarray, ends: Range) -> float:
    """Mean squared error of u8 over a range, as QuantizeLinear defines it."""
    scale = (ends[1] - ends[0]) / 255
    zero = np.round(-ends[0] / scale)
    return float(np.mean((values - (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale) ** 2))


@pytest.mark.parametrize("name", CALLED)
@pytest.mark.parametrize("method", METHODS)
def test_a_range_holds_zero_and_lies_within_the_values(method: Method, name: str) -> None:
    values = CALLED[name]
    low, high = chosen(values, method)
    assert min(values.min(), 0) <= low <= 0 <= high <= values.max()
    assert low < high


def test_minmax_is_exact() -> None:
    assert chosen(HEAVY, "minmax") == (HEAVY.min(), HEAVY.max())
    assert chosen(NORMAL + 10, "minmax") == (0, (NORMAL + 10).max())


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_cuts_both_ends_alike(percentile: float) -> None:
    low, high = chosen(NORMAL, "percentile", percentile)
    cut = (100 - percentile) / 2
    assert (low, high) == pytest.approx(tuple(np.percentile(NORMAL, [cut, 100 - cut])), abs=0.02)


def test_percentile_100_is_minmax() -> None:
    assert chosen(HEAVY, "percentile", 100) == pytest.approx((HEAVY.min(), HEAVY.max()))


@pytest.mark.parametrize("name", CALLED)
def test_mse_errs_least(name: str) -> None:
    """Within 2% of the best clipping that a search over the values themselves finds."""
    values = CALLED[name]
    low, high = chosen(values, "minmax")
    shares = np.linspace(0.02, 1, 50)
    best = min(squared_error(values, (low * a, high * b)) for a in shares[::5] for b in shares)
    found = squared_error(values, chosen(values, "mse"))
    assert found <= 1.02 * best
    assert all(found <= 1.02 * squared_error(values, chosen(values, method)) for method in METHODS)


def test_mse_gives_up_an_outlier_that_costs_all_others_their_resolution() -> None:
    rare = np.append(np.tile(NORMAL, 5), 12.0)
    assert chosen(rare, "mse")[1] < 6
    assert squared_error(rare, chosen(rare, "mse")) < 0.6 * squared_error(rare, chosen(rare, "minmax"))


@pytest.mark.parametrize("name", CALLED)
def test_entropy_clips_no_more_than_a_hundredth(name: str) -> None:
    """The zeros of a ReLU must not draw the range to themselves."""
    low, high = chosen(CALLED[name], "entropy")
    assert np.mean((CALLED[name] < low) | (CALLED[name] > high)) <= 0.01


@pytest.mark.parametrize("seed", range(3))
def test_entropy_errs_at_most_ten_times_as_much_as_minmax(seed: int) -> None:
    """A first ReLU: a heap of equal values per channel, from the images' background, and few that tell the images."""
    random = np.random.default_rng(seed)
    heaps = np.concatenate([np.zeros(40_000), np.repeat(random.uniform(0, 1.5, 16), 11_000)])
    values = np.append(heaps, np.minimum(random.exponential(0.8, 20_000), 8))
    low, high = chosen(values, "entropy")
    assert squared_error(values, (low, high)) < 12 * squared_error(values, (0, values.max()))  # unbounded, 149 times
    assert high > 0.4 * values.max()  # unbounded, 0.24


def test_entropy_clips_a_heavy_tail() -> None:
    assert chosen(HEAVY, "entropy")[1] < 0.8 * HEAVY.max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("values", "wanted"),
    [(np.zeros(5), (0.0, 0.0)), (np.full(5, 3.0), (0.0, 3.0)), (np.full(5, -3.0), (-3.0, 0.0))],
)
def test_a_constant_has_a_range_that_reaches_it(values: np.ndarray, wanted: Range, method: Method) -> None:
    assert chosen(values, method) == wanted


@pytest.mark.parametrize("method", METHODS)
def test_few_values_are_not_clipped_away(method: Method) -> None:
    """Pooled features, each of its own size: a cut that leaves a few bins could be told by 256 levels without loss."""
    random = np.random.default_rng(3)
    values = random.uniform(0.05, 0.6, 16) + 0.01 * random.standard_normal((170, 16))
    low, high = chosen(values, method)
    assert np.mean((values < low) | (values > high)) <= 0.01
