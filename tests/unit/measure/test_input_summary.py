from __future__ import annotations

import numpy as np
import pytest

from slipway.measure.arrays import Array
from slipway.measure.input_summary import MOST_EXAMPLES, InputDraw, binned, drawn
from slipway.records import InputSummary


def summary(array: Array, batch: int = 100) -> InputSummary:
    draw = InputDraw()
    for start in range(0, len(array), batch):
        draw.add(array[start : start + batch])
    return draw.summary("x")


def shares(found: InputSummary, values: list[float]) -> list[float]:
    """The share expected of the bin in which each value lies."""
    places = np.searchsorted(np.array(found.edges), np.array(values), side="right")
    return [found.shares[place] for place in places]


def test_continuous_values_lie_in_ten_bins_of_equal_shares() -> None:
    found = summary(np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32))

    assert (len(found.edges), len(found.shares)) == (9, 10)
    assert found.shares == pytest.approx([0.1] * 10, abs=1e-4)
    assert found.edges[4] == pytest.approx(0, abs=0.02), "the median"
    assert (found.n, found.examples, found.nonfinite) == (500 * 64, 500, 0)


def test_a_constant_has_a_bin_of_its_own_between_two_empty_ones() -> None:
    found = summary(np.full((20, 4), 7, np.int64))

    assert found.shares == (0, 1, 0)
    assert shares(found, [6, 7, 8]) == [0, 1, 0]


def test_a_mask_has_a_bin_for_each_of_its_values_and_others_for_anything_else() -> None:
    found = summary(np.tile(np.array([0, 0, 1, 1, 1], np.float32), (40, 1)))

    assert shares(found, [0, 1]) == [0.4, 0.6]
    assert shares(found, [-1, 0.5, 255]) == [0, 0, 0]


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-20, 1e30])
def test_the_next_number_lies_in_another_bin_and_no_edge_is_subnormal(value: float) -> None:
    found = summary(np.full((20, 4), value, np.float32))
    neighbours = np.nextafter(np.float32(value), np.array([-np.inf, np.inf], np.float32)).astype(np.float64)
    if value == 0:
        neighbours = np.array([-1e-29, 1e-29])

    assert shares(found, [float(np.float32(value)), *neighbours]) == [1, 0, 0]
    assert all(edge == 0 or abs(edge) > np.finfo(np.float64).tiny for edge in found.edges)


def test_a_value_that_holds_half_of_all_is_told_apart_from_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    background = np.where(rng.random((400, 100)) < 0.5, 0, rng.random((400, 100))).astype(np.float32)

    found = summary(background)

    assert shares(found, [0.0]) == pytest.approx([0.5], abs=0.01)
    assert sum(found.shares) == pytest.approx(1)


def test_values_that_are_not_finite_are_counted_apart() -> None:
    array = np.random.default_rng(0).random((10, 8))
    array[:, 0], array[:5, 1] = np.nan, -np.inf

    found = summary(array)

    assert found.nonfinite == 15 / 80
    assert sum(found.shares) == pytest.approx(1)
    assert summary(np.full((3, 2), np.nan)).shares == (0,)


@pytest.mark.parametrize("count", [50, MOST_EXAMPLES + 1, 3 * MOST_EXAMPLES])
def test_how_the_set_is_cut_into_batches_changes_nothing(count: int) -> None:
    array = np.random.default_rng(0).random((count, 3)).astype(np.float32)

    found = summary(array, batch=1000)

    assert found == summary(array, batch=1) == summary(array, batch=count)
    assert min(count, MOST_EXAMPLES // 2) < found.examples + 1 <= MOST_EXAMPLES + 1


def test_of_a_long_set_examples_from_its_end_count_as_well() -> None:
    array = np.arange(3 * MOST_EXAMPLES, dtype=np.float64).reshape(-1, 1)

    assert summary(array).edges == pytest.approx(np.arange(1, 10) / 10 * len(array), rel=0.01)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 300, 3 * 224 * 224])
def test_few_values_are_drawn_and_in_time_every_one(size: int) -> None:
    array, seen = np.arange(size), np.zeros(size, bool)
    for serial in range(2 * -(-size // 256)):
        values = drawn(array, serial)
        assert min(size, 128) <= len(values) <= 256
        seen[values] = True

    assert seen.mean() > 0.8


def test_drawing_copies_nothing() -> None:
    array = np.zeros((4, 100, 30), np.float32)

    assert np.shares_memory(drawn(array, 5), array)


def test_binned_values_are_counted_once() -> None:
    counts, nonfinite = binned(np.array([0.0, 1.0]), np.array([-1, 0, 0.5, 1, 2, np.nan, np.inf]))

    assert (counts.tolist(), nonfinite) == ([1, 2, 2], 2)
