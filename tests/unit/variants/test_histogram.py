"""A histogram whose counts depend on the values alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slipway.variants.histogram import BINS, Histogram

VALUES = np.random.default_rng(0).standard_t(3, 5000).astype(np.float32)


def counted(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.integers(1, 5),
)
def test_order_and_batches_change_nothing(values: np.ndarray, parts: int) -> None:
    one, other = counted(values), counted(*np.array_split(values[::-1], parts))
    assert one.limit == other.limit
    assert np.array_equal(one.counts, other.counts)
    assert (one.lowest, one.highest) == (other.lowest, other.highest) == (values.min(), values.max())


def test_counts_are_those_of_equal_bins() -> None:
    histogram = counted(*np.array_split(VALUES, 7))
    wanted, _ = np.histogram(VALUES.astype(np.float64), bins=histogram.edges())
    assert histogram.limit == 2.0 ** np.ceil(np.log2(np.abs(VALUES).max()))
    assert np.array_equal(histogram.counts, wanted)


def test_zeros_that_came_first_keep_their_place() -> None:
    values = np.concatenate([np.zeros(9, np.float32), VALUES])
    assert np.array_equal(counted(np.zeros(9, np.float32), VALUES).counts, counted(values).counts)


def test_memory_does_not_grow() -> None:
    histogram = counted(VALUES, 1e9 * VALUES, np.zeros(0, np.float32))
    assert histogram.counts is not None
    assert histogram.counts.shape == (BINS,)
    assert histogram.counts.sum() == 2 * len(VALUES)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-np.inf, 2.0), (-100.0, 100.0)])
def test_share_outside_is_that_of_the_values_to_the_width_of_a_bin(low: float, high: float) -> None:
    exact = 1 - np.mean((low <= VALUES) & (high >= VALUES))
    width = counted(VALUES).edges()[1] - counted(VALUES).edges()[0]
    near_an_end = np.mean(np.minimum(abs(VALUES - low), abs(VALUES - high)) < width)
    assert counted(VALUES).share_outside(low, high) == pytest.approx(exact, abs=near_an_end + 1e-12)


def test_without_counting_the_ends_are_known_all_the_same() -> None:
    histogram = Histogram(counting=False)
    histogram.add(VALUES)
    assert (histogram.lowest, histogram.highest) == (VALUES.min(), VALUES.max())
    assert histogram.share_outside(0, 0) == 0
