"""Ranges that show what matters, and labels that do not cover one another."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.reports.layout import Direction, Frame, Label, Mark, ceiling, frame, label_box, labels, misleads

SQUARE = Frame(x_range=(0, 10), y_range=(0, 10), logarithmic=False, width_px=1000, height_px=500)


def mark(x: float, y: float, label: str = "int8-static/openvino") -> Mark:
    return Mark(label, x, y, x, x, y)


def covered(own: Frame, marks: list[Mark]) -> float:
    """Area in square pixels that two labels share."""
    boxes = [label_box(own, m, label) for m, label in zip(marks, labels(own, marks), strict=True)]
    return sum(one.overlap(other) for one, other in itertools.combinations(boxes, 2))


def test_the_frame_holds_every_bar_and_no_drop() -> None:
    own = frame([Mark("a", 5, 0.2, 4, 9, 0.5), Mark("b", 6, 0.1, 6, 6, 0.3)], 100, 100)
    assert not own.logarithmic
    assert (own.x_range[0] < 4, own.x_range[1] > 9) == (True, True)
    assert (own.y_range[0] < 0, own.y_range[1] > 0.5) == (True, True)


@pytest.mark.parametrize(("right", "logarithmic"), [(7.9, False), (8.1, True)])
def test_the_latency_axis_is_logarithmic_only_where_much_has_to_fit(right: float, logarithmic: bool) -> None:
    assert frame([Mark("a", 1, 0, 1, 1, 0), Mark("b", 2, 0, 2, right, 0)], 100, 100).logarithmic is logarithmic


def test_places_are_pixels_from_the_lower_left_also_on_a_logarithmic_axis() -> None:
    assert SQUARE.place(5, 10) == (500, 500)
    assert Frame((0, 2), (0, 1), True, 100, 100).place(10, 0.5) == (50, 50)


def test_one_mark_alone_has_a_frame() -> None:
    own = frame([mark(5, 0)], 100, 100)
    assert own.x_range[0] < 5 < own.x_range[1]
    assert own.y_range[0] < 0 < own.y_range[1]


def test_a_hopeless_drop_does_not_set_the_scale_of_the_others() -> None:
    assert ceiling([0.5, 1.0, 85.0], [False, False, True]) == 2
    assert ceiling([0.5, 1.0, 3.9], [False, False, True]) == 3.9


def test_without_a_hopeless_one_or_with_nothing_else_all_is_to_scale() -> None:
    assert ceiling([0.1, 85.0], [False, False]) == 85
    assert ceiling([85.0, 90.0], [True, True]) == 90
    assert ceiling([-0.1, 90.0], [False, True]) == 90


def test_a_label_lies_on_the_side_it_is_told_and_clear_of_its_mark() -> None:
    right, left = (label_box(SQUARE, mark(5, 5), Label(Direction(x, 1), 9)) for x in (1, -1))
    assert (right.left, left.right) == (509, 491)
    assert right.bottom == left.bottom == 259
    above = label_box(SQUARE, mark(5, 5), Label(Direction(0, 1), 9))
    assert (above.left + above.right) / 2 == 500


def test_a_lone_label_is_up_right_and_near() -> None:
    (label,) = labels(SQUARE, [mark(2, 5)])
    assert label == Label(Direction(1, 1), 9)


def test_a_label_at_the_edge_turns_inwards() -> None:
    own = mark(9.9, 9.9)
    (label,) = labels(SQUARE, [own])
    box = label_box(SQUARE, own, label)
    assert box.right <= 1000
    assert box.top <= 500


def test_labels_avoid_marks_and_bars_that_come_later() -> None:
    own, barred = mark(4, 5), Mark("b", 5, 5.4, 4.1, 6, 5.4)
    label, _ = labels(SQUARE, [own, barred])
    box = label_box(SQUARE, own, label)
    assert not box.bottom < 270 < box.top or box.right < 410


def test_marks_in_a_heap_keep_their_labels_apart() -> None:
    assert covered(SQUARE, [mark(5 + 0.1 * i, 5 + 0.05 * (i % 3)) for i in range(8)]) == 0


def test_the_label_of_a_chosen_one_stays_beside_it_however_crowded() -> None:
    crowd = [mark(5 + 0.1 * i, 5 + 0.05 * (i % 3)) for i in range(8)]
    placed = labels(SQUARE, [mark(5.35, 5.05)._replace(beside=True), *crowd])
    assert placed[0].distance_px == 9
    assert max(label.distance_px for label in placed) > 9


def test_a_label_lies_nearer_to_its_own_mark_than_to_any_other() -> None:
    marks = [mark(4.2, 5.2), mark(4.7, 4.1), mark(4.3, 5.1), mark(4.3, 4.5)]
    placed = labels(SQUARE, marks)
    assert [misleads(SQUARE, marks, index, label) for index, label in enumerate(placed)] == [False] * 4
    assert misleads(SQUARE, marks, 0, Label(Direction(1, -1), 26))


def test_there_is_room_for_a_label_to_the_left_of_the_fastest() -> None:
    marks = [mark(1, 5), mark(1.01, 4.9), mark(3, 5)]
    own = frame(marks, 985, 490)
    assert label_box(own, marks[0], Label(Direction(-1, 1), 9)).left > -1e-6
    assert frame([mark(0.1, 5), mark(0.7, 5)], 985, 490).x_range[0] == 0, "no latency is negative"


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(1, 9), st.floats(1, 9)), min_size=1, max_size=6))
def test_a_few_labels_never_cover_one_another_nor_leave_the_plot(places: list[tuple[float, float]]) -> None:
    marks = [mark(x, y) for x, y in places]
    assert covered(SQUARE, marks) == 0
    for own, label in zip(marks, labels(SQUARE, marks), strict=True):
        box = label_box(SQUARE, own, label)
        assert min(box.left, box.bottom) >= 0
        assert box.right <= 1000
        assert box.top <= 500
