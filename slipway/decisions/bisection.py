"""Where a condition that changes once along an interval does so."""

from __future__ import annotations

from collections.abc import Callable


def last_held(holds: Callable[[float], bool], held: float, open_: float, halvings: int) -> float:
    """The last value from ``held``, at which ``holds`` is taken to be true, towards ``open_`` at which it was found so.

    It is told to within the interval halved ``halvings`` times, or to neighbouring floats, and on the side of ``held``.
    """
    for _ in range(halvings):
        middle = (held + open_) / 2
        if middle in {held, open_}:
            break
        if holds(middle):
            held = middle
        else:
            open_ = middle
    return held
