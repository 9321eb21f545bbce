"""Calibration streams, holds examples back, and says when it saw too few."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import chain

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from slipway.config import CalibrationParams
from slipway.errors import BadInputError, RejectedError
from slipway.variants.calibration import Calibrated, adequacy, calibrate, is_held_back
from slipway.variants.inner_values import Arrays, Batches, numbered
from slipway.variants.ranges import Method, Range

MINMAX = CalibrationParams()


def doubling() -> onnx.ModelProto:
    """Answers y = 2x + log x, for x of any shape (batch, 4)."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Log", ["x"], ["log"]),
        helper.make_node("Add", ["twice", "log"], ["y"]),
    ]
    x, twice, log, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "twice", "log", "y")
    )
    graph = helper.make_graph(nodes, "g", [x], [y], value_info=[twice, log])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def uniform(*sizes: int, low: float = 1, high: float = 2) -> Batches:
    def batches() -> list[Arrays]:
        random = np.random.default_rng(0)
        return [{"x": random.uniform(low, high, (size, 4)).astype(np.float32)} for size in sizes]

    return batches


def calibrated(batches: Batches, params: CalibrationParams = MINMAX) -> Calibrated:
    return calibrate(doubling(), ["x", "twice"], batches, params)


def report(batches: Batches, held: Range = (0.0, 4.0), params: CalibrationParams = MINMAX) -> tuple[str, ...]:
    return adequacy(doubling(), {"x": held, "twice": held}, calibrated(batches, params), batches)


def test_ranges_are_those_of_the_examples_that_are_not_held_back() -> None:
    batches = uniform(16, 7, 20)
    seen = np.concatenate([batch["x"][~is_held_back(positions)] for positions, batch in numbered(batches())])
    found = calibrated(batches)
    assert found.ranges == {"x": (0, seen.max()), "twice": (0, 2 * seen.max())}
    assert (found.examples, found.held_back) == (39, 4)
    assert len(seen) == 39


def test_an_outlier_counts_wherever_it_comes_unless_it_is_held_back() -> None:
    """ONNX Runtime's CalibMaxIntermediateOutputs forgets whole batches."""

    def highest(place: int) -> float:
        values = np.ones((30, 4), np.float32)
        values[place] = 100
        return calibrated(lambda: [{"x": part} for part in np.array_split(values, 7)]).ranges["x"][1]

    assert {highest(place) for place in (0, 1, 8, 15, 28)} == {100}
    assert {highest(place) for place in (9, 19, 29)} == {1}


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_ranges_do_not_depend_on_the_batches(method: Method) -> None:
    params = CalibrationParams(ranges=method, percentile=99)
    values = np.random.default_rng(0).lognormal(size=(300, 4)).astype(np.float32)

    def ranges(parts: int) -> dict[str, Range]:
        return dict(calibrated(lambda: [{"x": part} for part in np.array_split(values, parts)], params).ranges)

    assert ranges(1) == ranges(7)


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_calibration_is_streamed(method: Method) -> None:
    """No more than the batch in hand and the one before it are alive at once, however many there are."""
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream() -> Iterator[Arrays]:
        nonlocal most
        for batch in chain.from_iterable(uniform(4)() for _ in range(12)):
            alive.append(weakref.ref(batch["x"]))
            most = max(most, sum(reference() is not None for reference in alive))
            yield batch

    report(stream, params=CalibrationParams(ranges=method))
    assert len(alive) == 3 * 12  # counted, calibrated, checked
    assert most <= 3


def test_enough_examples_are_told_in_figures_without_a_warning() -> None:
    assert report(uniform(64, 64, 64)) == (
        "calibrated on 173 examples, ranges by minmax",
        "ranges of 0 of 2 activations still moved by more than 5% in the last tenth",
        "0.00% of values on 19 held-back examples lay beyond their range, at most 0.00% (x)",
    )


def test_ranges_that_move_in_the_last_tenth_are_told_and_warned_of() -> None:
    def sorted_by_size() -> list[Arrays]:
        return [{"x": np.full((1, 4), 1 + place, np.float32)} for place in range(40)]

    _, moved, _, warning = report(sorted_by_size, held=(0, 100))
    assert moved == "ranges of 2 of 2 activations still moved by more than 5% in the last tenth: x, twice"
    assert warning == "calibration is inadequate (ranges still moved): calibrate on more examples"


def test_saturation_on_held_back_examples_is_told_and_warned_of() -> None:
    """Values of x lie evenly in [1, 2), so that a tenth lie beyond 1.9; those of 2x, in [2, 4), all do."""
    notes = report(uniform(500, 500), held=(0, 1.9))
    share, worst = (float(word.rstrip("%")) for word in notes[2].split() if word.endswith("%"))
    assert share == pytest.approx(55, abs=3)
    assert worst == 100
    assert notes[2].endswith("(twice)")
    assert notes[3] == "calibration is inadequate (values lay beyond their range): calibrate on more examples"


def test_what_is_clipped_on_purpose_is_no_reason_to_warn() -> None:
    params = CalibrationParams(ranges="percentile", percentile=90)
    batches = uniform(500, 500, low=1e-3, high=2)
    found = calibrated(batches, params)
    notes = adequacy(doubling(), dict(found.ranges), found, batches)
    assert notes[0] == "calibrated on 900 examples, ranges by percentile 90.0"
    share = float(notes[2].split("%")[0])
    assert share == pytest.approx(5, abs=2)  # the lower end is zero, which every range holds
    assert len(notes) == 3


def test_a_range_that_is_cut_to_less_than_half_is_told() -> None:
    params = CalibrationParams(ranges="percentile", percentile=99)

    def with_an_outlier() -> list[Arrays]:
        values = np.random.default_rng(0).uniform(1, 2, (500, 4)).astype(np.float32)
        values[3, 0] = 10
        return [{"x": values}]

    notes = report(with_an_outlier, held=(0, 20), params=params)
    assert notes[1] == "ranges of 2 of 2 activations were cut to less than 50% of what was seen: twice to 20%, x to 20%"
    assert not any("cut" in note for note in report(with_an_outlier, held=(0, 20)))


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_an_activation_that_is_always_zero_is_not_cut(method: Method) -> None:
    notes = report(lambda: [{"x": np.zeros((40, 4), np.float32)}], params=CalibrationParams(ranges=method))
    assert not any("cut" in note for note in notes)


def test_where_nothing_was_quantized_there_is_no_range_to_check() -> None:
    batches = uniform(64)
    assert adequacy(doubling(), {}, calibrated(batches), batches) == (
        "calibrated on 58 examples, ranges by minmax",
        "no activation of the model was quantized: there is no range to check",
    )


def test_fewer_than_ten_examples_leave_none_to_check_on() -> None:
    notes = report(uniform(9))
    assert notes[0] == "calibrated on 9 examples, ranges by minmax"
    assert notes[-1] == "calibration is inadequate (fewer than 10 examples): calibrate on more examples"


def test_an_activation_that_is_no_number_has_no_range() -> None:
    with pytest.raises(RejectedError, match="activation 'log' holds NaN or infinity on calibration data"):
        calibrate(doubling(), ["x", "log"], uniform(8, low=-1, high=0), MINMAX)


def test_empty_or_wrong_calibration_is_refused() -> None:
    with pytest.raises(BadInputError, match="calibration data is empty"):
        calibrated(list)
    with pytest.raises(BadInputError, match="lack input 'x'; they have picture"):
        calibrated(lambda: [{"picture": np.zeros((1, 4), np.float32)}])
    with pytest.raises(RejectedError, match="does not run on the examples") as caught:
        calibrated(lambda: [{"x": np.zeros((1, 5), np.float32)}])
    assert "\n" not in str(caught.value)
