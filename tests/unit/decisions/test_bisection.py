"""Where a condition changes is found from the side on which it holds, and on that side."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from slipway.decisions.bisection import last_held


@given(st.floats(-1, 1), st.booleans())
def test_the_last_value_that_holds_is_found_from_either_end(edge: float, upwards: bool) -> None:
    held, open_ = (-1.0, 1.0) if upwards else (1.0, -1.0)
    found = last_held(lambda x: x <= edge if upwards else x >= edge, held, open_, 40)
    assert abs(found - edge) <= 2 * 0.5**40
    assert found == held or (found <= edge if upwards else found >= edge)


def test_it_ends_at_neighbouring_floats_however_often_it_may_halve() -> None:
    asked: list[float] = []

    def holds(value: float) -> bool:
        asked.append(value)
        return value < 0.3

    assert last_held(holds, 0.0, 1.0, 10_000) == math.nextafter(0.3, 0)
    assert len(asked) < 100
