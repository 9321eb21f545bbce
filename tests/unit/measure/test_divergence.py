from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.measure.divergence import Deviation, deviation, first_divergence

CHAIN = {str(index): ([str(index - 1)] if index else []) for index in range(20)}


def shares(told: dict[str, float]) -> dict[str, Deviation]:
    return {value: Deviation(share, share) for value, share in told.items()}


def test_a_chain_is_bisected() -> None:
    asked: set[str] = set()

    def measured(value: str) -> Deviation:
        asked.add(value)
        return Deviation(0.1, 0.1) if int(value) >= 13 else Deviation(1e-7, 1e-7)

    found = first_divergence(CHAIN, "19", measured)

    assert found is not None
    assert (found.value, found.deviation.share, found.before.share) == ("13", 0.1, 1e-7)
    assert len(asked) <= 7


def test_a_difference_that_is_masked_on_one_way_is_followed_on_the_other() -> None:
    sources = {"a": [], "wrong": ["a"], "masked": ["wrong"], "right": ["masked"], "sum": ["wrong", "right"]}
    told = shares({"a": 0, "wrong": 0.5, "masked": 0, "right": 0, "sum": 0.1})
    found = first_divergence(sources, "sum", told.__getitem__)
    assert found is not None
    assert found.value == "wrong"


def test_an_operator_that_only_amplifies_is_not_named() -> None:
    told = shares({"0": 0, "1": 2e-5, "2": 5e-5, "3": 1e-4, "4": 9e-4, "5": 8e-3})
    found = first_divergence({value: CHAIN[value] for value in told}, "5", told.__getitem__)
    assert found is not None
    assert found.value == "1"


@pytest.mark.parametrize("last", [0.0, 5e-7, 5e-6])
def test_rounding_that_grows_from_operator_to_operator_names_none(last: float) -> None:
    told = shares({str(index): last * (index + 1) / 20 for index in range(20)})
    assert first_divergence(CHAIN, "19", told.__getitem__) is None


def test_a_value_of_another_shape_differs_infinitely() -> None:
    assert deviation(np.zeros((2, 3)), np.zeros((3, 2))).share == np.inf


def test_a_deviation_is_told_against_the_largest_magnitude() -> None:
    assert deviation(np.array([0.0, -4.0]), np.array([1.0, -4.0])) == Deviation(0.25, 1.0)
    assert deviation(np.zeros(2), np.array([0.0, 1e-9])).share == np.inf
    assert deviation(np.array([True, False]), np.array([True, True])).share == 1.0


@pytest.mark.parametrize(
    ("candidate", "share"),
    [([np.inf, np.nan, 1.0], 0.0), ([-np.inf, np.nan, 1.0], np.inf), ([1.0, np.nan, 1.0], np.inf)],
)
def test_values_that_are_not_finite_have_to_be_the_same(candidate: list[float], share: float) -> None:
    assert deviation(np.array([np.inf, np.nan, 1.0]), np.array(candidate)).share == share


@given(st.data())
def test_in_any_graph_the_one_wrong_value_is_found_however_it_is_masked(data: st.DataObject) -> None:
    """Each value after the wrong one either carries its difference on, in any size, or masks it."""
    size = data.draw(st.integers(1, 25))
    sources: dict[str, list[str]] = {}
    for index in range(size):
        before = list(sources)
        sources[str(index)] = data.draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
    wrong = str(data.draw(st.integers(0, size - 1)))
    told: dict[str, float] = {}
    for value, read in sources.items():
        differs = value == wrong or (any(told[one] > 1e-6 for one in read) and data.draw(st.booleans()))
        told[value] = data.draw(st.floats(2e-3, 1e3)) if differs else data.draw(st.floats(0, 3e-7))
    output = str(size - 1)
    told[output] = max(told[output], 2e-3) if any(told[one] > 1e-6 for one in sources[output]) else told[output]
    found = first_divergence(sources, output, shares(told).__getitem__)
    if told[output] <= 1e-6:
        assert found is None
    else:
        assert found is not None
        assert found.value == wrong
