from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.errors import BadInputError, RejectedError
from slipway.measure.arrays import Arrays
from slipway.measure.parity import ParityAccumulator, compare_outputs, require_close

REFERENCE: Arrays = {
    "logits": np.array([[1.0, 2.0], [4.0, 3.0]], dtype=np.float32),
    "features": np.array([[100.0, 0.0], [0.0, 50.0]], dtype=np.float32),
}


def changed(name: str, index: tuple[int, int], value: float) -> Arrays:
    arrays = {key: np.array(array) for key, array in REFERENCE.items()}
    arrays[name][index] = value
    return arrays


def test_equal_outputs_agree_wholly() -> None:
    parity = compare_outputs(REFERENCE, REFERENCE)
    assert (parity.max_abs_diff, parity.max_rel_diff, parity.top1_agreement, parity.n) == (0.0, 0.0, 1.0, 2)
    assert parity.cosine == pytest.approx(1.0)


def test_differences_are_the_largest_and_the_cosine_the_lowest_over_outputs() -> None:
    parity = compare_outputs(REFERENCE, changed("logits", (0, 0), 3.0))
    assert parity.max_abs_diff == pytest.approx(2.0)
    assert parity.max_rel_diff == pytest.approx(2.0)
    assert parity.top1_agreement == 0.5
    assert parity.cosine == pytest.approx(32 / np.sqrt(30 * 38))


def test_a_difference_next_to_zero_is_told_against_the_output_s_magnitude() -> None:
    parity = compare_outputs(REFERENCE, changed("features", (0, 1), 0.01))
    assert parity.max_rel_diff == pytest.approx(0.01 / (1e-3 * 100), rel=1e-5)


def test_precision_may_differ() -> None:
    half = {name: array.astype(np.float16) for name, array in REFERENCE.items()}
    assert compare_outputs(REFERENCE, half).max_abs_diff == 0.0


def test_no_top1_agreement_without_classes() -> None:
    assert compare_outputs({"y": np.zeros((3, 1))}, {"y": np.zeros((3, 1))}).top1_agreement is None


@pytest.mark.parametrize(("candidate", "cosine"), [(np.zeros(3), 1.0), (np.ones(3), 0.0)])
def test_cosine_of_zero_outputs_is_a_number(candidate: np.ndarray, cosine: float) -> None:
    parity = compare_outputs({"y": np.zeros(3)}, {"y": candidate})
    assert parity.cosine == cosine
    assert np.isfinite(parity.max_rel_diff)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_only_the_candidate_loses_reject_it(value: float) -> None:
    with pytest.raises(RejectedError, match="'features' holds NaN or infinity in 1 of 4"):
        compare_outputs(REFERENCE, changed("features", (1, 1), value))


def test_values_that_the_reference_masks_are_left_out() -> None:
    masked = {"y": np.array([[1.0, -np.inf], [np.nan, 2.0]])}
    parity = compare_outputs(masked, {"y": np.array([[1.0, -1e9], [np.nan, 2.5]])})
    assert parity.max_abs_diff == 0.5


def test_nan_in_place_of_infinity_rejects() -> None:
    with pytest.raises(RejectedError, match="NaN or infinity in 1 of 2"):
        compare_outputs({"y": np.array([1.0, -np.inf])}, {"y": np.array([1.0, np.nan])})


def test_names_and_shapes_must_be_the_same() -> None:
    with pytest.raises(RejectedError, match=r"the candidate \['logits'\]"):
        compare_outputs(REFERENCE, {"logits": REFERENCE["logits"]})
    with pytest.raises(RejectedError, match=r"shape \(2, 1\) in the candidate"):
        compare_outputs(REFERENCE, {**REFERENCE, "features": np.zeros((2, 1))})


@pytest.mark.parametrize("outputs", [{}, {"y": np.zeros((0, 2))}, {"y": np.array(1.0)}])
def test_nothing_to_compare_is_bad_input(outputs: Arrays) -> None:
    with pytest.raises(BadInputError, match="at least one"):
        compare_outputs(outputs, outputs)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
    st.floats(-9, 9),
)
def test_batches_give_the_figures_of_all_examples_at_once(sizes: list[int], seed: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal((sum(sizes), 3)) * 10.0 ** rng.uniform(exponent - 5, exponent, (sum(sizes), 3))
    candidate = reference + rng.standard_normal(reference.shape) * 10.0 ** rng.uniform(-9, 0) * np.abs(reference).max()
    streamed = ParityAccumulator()
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        streamed.add({"y": reference[end - size : end]}, {"y": candidate[end - size : end]})
    parity, difference = streamed.result(), np.abs(candidate - reference)

    assert parity.max_abs_diff == difference.max()
    floor = max(1e-3 * np.abs(reference).max(), 1e-12)
    exact = np.max(difference / np.maximum(np.abs(reference), floor))
    assert exact * (1 - 1e-9) <= parity.max_rel_diff <= exact * 1.0225
    lengths = np.linalg.norm(reference) * np.linalg.norm(candidate)
    assert parity.cosine == pytest.approx(np.sum(reference * candidate) / lengths, abs=1e-12)
    assert parity.top1_agreement == np.mean(reference.argmax(1) == candidate.argmax(1))
    assert parity.n == sum(sizes)


def test_a_late_large_value_raises_the_floor_of_earlier_differences() -> None:
    streamed = ParityAccumulator()
    streamed.add({"y": np.array([1e-3])}, {"y": np.array([2e-3])})
    assert streamed.result().max_rel_diff == pytest.approx(1.0)
    streamed.add({"y": np.array([100.0])}, {"y": np.array([100.0])})
    assert streamed.result().max_rel_diff == pytest.approx(1e-3 / 0.1)


def test_parity_over_nothing_is_bad_input() -> None:
    with pytest.raises(BadInputError, match="no examples"):
        ParityAccumulator().result()


def test_rounding_is_close() -> None:
    require_close(REFERENCE, changed("features", (0, 0), 100.009))
    require_close(REFERENCE, changed("features", (0, 1), 1.9e-3))


def test_what_differs_more_is_rejected_with_output_and_difference() -> None:
    with pytest.raises(
        RejectedError, match=r"^max difference 0\.5 at output 'features', 1 of 4 values beyond rtol 0\.0001"
    ):
        require_close(REFERENCE, changed("features", (0, 0), 100.5))


def test_rounding_next_to_zero_is_measured_against_the_largest_value_but_at_least_against_one() -> None:
    with pytest.raises(RejectedError, match="'features'"):
        require_close(REFERENCE, changed("features", (0, 1), 2.1e-3))
    small = {"y": np.array([0.0, 0.01])}
    require_close(small, {"y": np.array([1.9e-5, 0.01])})
    with pytest.raises(RejectedError, match=r"max difference 2\.1e-05"):
        require_close(small, {"y": np.array([2.1e-5, 0.01])})
