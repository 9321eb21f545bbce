from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from slipway.errors import BadInputError
from slipway.records import Phase, Rollout
from slipway.records.rollout import StepStart
from slipway.reports.rollout_plot import panels, steps, write_rollout_plot
from tests.unit.rollout.rollouts import looked, rollout


@pytest.fixture
def history() -> list[Rollout]:
    begun = (StepStart(), StepStart(challenger_answers=190, challenger_errors=10))
    second = {"step": 1, "share_percent": 5.0, "steps_begun": begun}
    return [
        rollout(readings=(), phase=Phase.PENDING, step=-1, steps_begun=()),
        *(looked(requests) for requests in (10, 60, 200)),
        *(looked(requests, **second) for requests in (30, 300)),
        looked(300, phase=Phase.PROMOTED, **second | {"share_percent": 100.0}),
    ]


def test_every_gate_is_drawn_over_all_requests_of_the_challenger(history: list[Rollout]) -> None:
    found = panels(history)

    assert [panel.title for panel in found] == [
        "p95 latency, ms",
        "loss of accuracy, share of requests",
        "failed requests since the step began, share",
    ]
    assert {tuple(panel.requests) for panel in found} == {(10, 60, 200, 230, 500)}
    last = found[0].points[-1]
    assert (last.promotes, last.rolls_back) == pytest.approx((1.1 * (10 - 1 / 30), 1.1 * (10 + 1 / 30)))
    assert found[0].points[0].upper is None


def test_steps_begin_where_the_requests_were_then(history: list[Rollout]) -> None:
    assert steps(history) == [(0, "1%"), (200, "5%")]


def test_what_is_drawn_stays_within_the_panel_and_shows_the_margin(history: list[Rollout]) -> None:
    for panel in panels(history):
        low, high = panel.range()
        assert all(low <= value <= high for value in panel.drawn(lambda point: point.upper, 1e9))
        assert all(low < point.promotes < high for point in panel.points[1:] if point.promotes is not None)


def test_a_page_and_a_picture(history: list[Rollout], tmp_path: Path) -> None:
    for name in ("rollout.html", "rollout.png"):
        write_rollout_plot(history, tmp_path / name)

    assert (tmp_path / "rollout.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "rollout.html").read_text()
    names = set(re.findall(r'"name":"([^"]+)"', page))
    assert names == {"champion", "challenger", "promotes below", "rolls back above"}
    assert json.dumps("digits.x86: version 2 beside 1, Promoted")[1:-1] in page


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rollout.svg", "ends in .html or .png"),
        ("nowhere/rollout.png", "No such file or directory; give a file in a directory that exists"),
    ],
)
def test_a_plot_that_cannot_be_is_bad_input(history: list[Rollout], name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=re.escape(told)):
        write_rollout_plot(history, tmp_path / name)


def test_a_rollout_without_requests_has_no_plot(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nothing was seen of the challenger"):
        write_rollout_plot([rollout()], tmp_path / "rollout.png")
