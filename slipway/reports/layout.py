"""Where things go on a plot: ranges that show what matters, and labels that do not cover one another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LOG_FROM = 8.0  # right over left end from which a linear axis would crowd the fast candidates
OFF_SCALE = 4.0  # times the height of what is not hopeless: a drop above that would flatten all others
PADDING = 0.08
LEFT_SHARE = 0.2  # of the width, at most, for a label to the left of the fastest
LABEL_HEIGHT_PX = 14.0
CHARACTER_PX = 6.8
MARKER_PX = 8.0
RINGS_PX = (9.0, 26.0, 46.0, 70.0)
ROUNDS = 3


class Direction(NamedTuple):
    """From the mark to its label: right and up are positive."""

    x: int
    y: int


# In the order of preference where none is free of overlap
DIRECTIONS = tuple(Direction(x, y) for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)))


class Box(NamedTuple):
    """Left, bottom, right and top, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Shared area in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def distance(self, x: float, y: float) -> float:
        """From its nearest edge to a place; 0 inside."""
        return math.hypot(max(self.left - x, x - self.right, 0.0), max(self.bottom - y, y - self.top, 0.0))


class Mark(NamedTuple):
    """What is drawn of one point: its place, how far its bars reach, and whether its label has to stay beside it."""

    label: str
    x: float
    y: float
    left: float
    right: float
    top: float
    beside: bool = False


class Label(NamedTuple):
    """Where a label goes: the direction, and the distance in pixels along each axis from mark to nearest corner."""

    direction: Direction
    distance_px: float


@dataclass(frozen=True)
class Frame:
    """Ranges of a plot, and its inner size in pixels; ``x_range`` is of decimal logarithms where ``logarithmic``."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    logarithmic: bool
    width_px: float
    height_px: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels from the lower left corner."""
        along = math.log10(x) if self.logarithmic else x
        return (
            self.width_px * (along - self.x_range[0]) / (self.x_range[1] - self.x_range[0]),
            self.height_px * (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0]),
        )


def ceiling(drops_upper: Sequence[float], hopeless: Sequence[bool]) -> float:
    """The largest drop that is drawn to scale: a few times the largest of what is not ``hopeless``, if that is less."""
    largest = max(drops_upper)
    sound = [upper for upper, lost in zip(drops_upper, hopeless, strict=True) if not lost and upper > 0]
    return largest if not sound or largest <= OFF_SCALE * max(sound) else OFF_SCALE / 2 * max(sound)


def frame(marks: Sequence[Mark], width_px: float, height_px: float) -> Frame:
    """Ranges that hold all marks with their bars, no drop at all, and the label of the fastest to the left of it."""
    left, right = min(mark.left for mark in marks), max(mark.right for mark in marks)
    logarithmic = left > 0 and right / left >= LOG_FROM
    x_range = (math.log10(left), math.log10(right)) if logarithmic else (left, right)
    y_range = (min(0.0, *(mark.y for mark in marks)), max(0.0, *(mark.top for mark in marks)))
    fastest = min(marks, key=lambda mark: mark.x)
    share = min((CHARACTER_PX * len(fastest.label) + RINGS_PX[0]) / width_px, LEFT_SHARE)
    x_low, x_high = _padded(*x_range)
    roomy = x_high - (x_high - x_range[0]) / (1 - share)
    x_low = min(x_low, roomy if logarithmic else max(roomy, 0.0))  # there is no negative latency
    return Frame((x_low, x_high), _padded(*y_range), logarithmic, width_px, height_px)


def _padded(low: float, high: float) -> tuple[float, float]:
    span = high - low or abs(high) or 1.0
    return low - PADDING * span, high + PADDING * span


def labels(frame: Frame, marks: Sequence[Mark], rings_px: Iterable[float] = RINGS_PX) -> list[Label]:
    """A place for each mark's label, the first mark first; then each once more, now that the others have theirs.

    It covers no other label and stays inside, lies nearer to its own mark than to any other, covers the least of what
    is drawn, and is near: in this order, where not all can be had. Beside its mark is on the first of ``rings_px``.
    """
    rings, drawn = list(rings_px), [box for mark in marks for box in _drawn(frame, mark)]
    placed: dict[int, Label] = {}
    for _ in range(ROUNDS):
        for index, mark in enumerate(marks):
            others = [label_box(frame, marks[i], label) for i, label in placed.items() if i != index]
            near_first = rings[:1] if mark.beside else rings
            possible = [Label(direction, ring) for ring in near_first for direction in DIRECTIONS]
            costs = [
                (*_faults(frame, marks, index, label, others), _covered(frame, mark, label, drawn))
                for label in possible
            ]
            placed[index] = possible[costs.index(min(costs))]
    return [placed[index] for index in range(len(marks))]


def label_box(frame: Frame, mark: Mark, label: Label) -> Box:
    """The room that the label of ``mark`` takes."""
    width, height = CHARACTER_PX * len(mark.label), LABEL_HEIGHT_PX
    x, y = frame.place(mark.x, mark.y)
    left = x + label.direction.x * (label.distance_px + width / 2) - width / 2
    bottom = y + label.direction.y * (label.distance_px + height / 2) - height / 2
    return Box(left, bottom, left + width, bottom + height)


def _drawn(frame: Frame, mark: Mark) -> tuple[Box, ...]:
    """The mark itself and its two bars."""
    x, y = frame.place(mark.x, mark.y)
    left, right, top = (
        frame.place(mark.left, mark.y)[0],
        frame.place(mark.right, mark.y)[0],
        frame.place(mark.x, mark.top)[1],
    )
    return (
        Box(x - MARKER_PX, y - MARKER_PX, x + MARKER_PX, y + MARKER_PX),
        Box(left, y - 1, right, y + 1),
        Box(x - 1, y, x + 1, top),
    )


def _faults(frame: Frame, marks: Sequence[Mark], index: int, label: Label, others: Sequence[Box]) -> tuple[float, bool]:
    """The area of other labels and outside the plot that a label covers, and whether it `misleads`."""
    box = label_box(frame, marks[index], label)
    inside = box.overlap(Box(0, 0, frame.width_px, frame.height_px))
    outside = (box.right - box.left) * (box.top - box.bottom) - inside
    return round(sum(map(box.overlap, others)) + 10 * outside, 1), misleads(frame, marks, index, label)


def _covered(frame: Frame, mark: Mark, label: Label, drawn: Sequence[Box]) -> float:
    """Area of what is drawn that a label covers, and its distance."""
    return sum(map(label_box(frame, mark, label).overlap, drawn)) + label.distance_px


def misleads(frame: Frame, marks: Sequence[Mark], index: int, label: Label) -> bool:
    """Whether the label of one of the ``marks`` lies nearer to another; marks in the same place are told by neither."""
    box, own = label_box(frame, marks[index], label), frame.place(marks[index].x, marks[index].y)
    places = (frame.place(mark.x, mark.y) for mark in marks)
    return any(box.distance(*place) < box.distance(*own) for place in places)
