"""Successive halving: it spares time, and never drops what could still be best."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from slipway.decisions.budget import survivors
from slipway.records import Interval
from tests.unit.decisions.builders import interval


def around(*values: float, reach: float) -> list[Interval]:
    return [interval(value, value - reach, value + reach) for value in values]


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    lower, value, upper = sorted(draw(st.tuples(*[st.floats(0.1, 10)] * 3)))
    return interval(value, lower, upper)


def test_of_clearly_different_candidates_the_better_half_is_kept() -> None:
    assert survivors(around(1, 4, 2, 3, reach=0.1)) == (1, 3)


def test_half_of_an_odd_number_is_rounded_up() -> None:
    assert survivors(around(1, 4, 2, 3, 5, reach=0.1)) == (1, 3, 4)


def test_one_that_reaches_the_worst_kept_is_kept_too() -> None:
    assert survivors([*around(5, 4, 1, reach=0.1), interval(3, 2, 3.9)]) == (0, 1, 3)
    assert survivors([*around(5, 4, 1, reach=0.1), interval(3, 2, 3.89)]) == (0, 1)


def test_one_that_reaches_the_best_is_kept_though_the_second_best_is_out_of_its_reach() -> None:
    """The best one's interval is so wide that what is below the second may still beat it."""
    wide, sure, low, lost = interval(5, 3, 7), interval(4.5, 4.4, 4.6), interval(2.9, 2.7, 3.1), interval(1, 0.9, 1.1)
    assert survivors([wide, sure, low, lost]) == (0, 1, 2)


def test_of_two_only_a_clear_loser_is_dropped() -> None:
    assert survivors(around(2.0, 1.9, reach=0.1)) == (0, 1)
    assert survivors(around(1.0, 2.0, reach=0.1)) == (1,)


def test_one_or_none_stay_as_they_are() -> None:
    assert survivors(around(1, reach=0.5)) == (0,)
    assert survivors([]) == ()


def test_equal_candidates_all_stay() -> None:
    assert survivors([interval(2)] * 5) == (0, 1, 2, 3, 4)


def test_repeated_halving_ends_with_the_best() -> None:
    left = around(*range(1, 17), reach=0.2)
    for expected in (8, 4, 2, 1, 1):
        left = [left[index] for index in survivors(left)]
        assert len(left) == expected
    assert left == around(16, reach=0.2)


@given(st.lists(intervals(), min_size=1, max_size=12))
def test_what_is_dropped_is_clearly_worse_than_the_whole_better_half(speedups: list[Interval]) -> None:
    kept = survivors(speedups)
    assert list(kept) == sorted(set(kept))
    assert len(kept) >= math.ceil(len(speedups) / 2)
    half = sorted(speedups, key=lambda own: -own.value)[: math.ceil(len(speedups) / 2)]
    for own in (own for index, own in enumerate(speedups) if index not in kept):
        assert all(own.upper < better.lower for better in half)


@given(st.lists(intervals(), min_size=1, max_size=12))
def test_what_could_still_be_best_is_never_dropped(speedups: list[Interval]) -> None:
    kept = survivors(speedups)
    best = max(range(len(speedups)), key=lambda index: speedups[index].value)
    assert best in kept
    for index, own in enumerate(speedups):
        overlaps_best = own.upper >= speedups[best].lower
        beaten_by_none = all(own.upper >= other.lower for other in speedups)
        assert index in kept or not (overlaps_best or beaten_by_none)


@given(st.lists(intervals(), max_size=10, unique_by=lambda own: own.value))
def test_the_order_of_candidates_does_not_matter(speedups: list[Interval]) -> None:
    last = len(speedups) - 1
    assert {last - index for index in survivors(speedups[::-1])} == set(survivors(speedups))


def test_the_better_half_is_that_of_those_that_count_and_of_all_where_none_does() -> None:
    fast, slow, slower = (Interval(value=v, lower=v - 0.1, upper=v + 0.1) for v in (9.0, 2.0, 1.0))

    assert survivors([fast, slow, slower], [False, True, True]) == (0, 1), "the one that counts is not pushed out"
    assert survivors([fast, slow, slower], [False] * 3) == survivors([fast, slow, slower]) == (0, 1)
    assert survivors([fast, slow], [True, True]) == (0,)
