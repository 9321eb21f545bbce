from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import BadInputError
from slipway.records import Restored
from slipway.reports.restored import LABELLED, lines, write_curve
from tests.unit.reports.test_plots import figure

WAY = (
    Restored(layers=0, layer=None, fp32_share=0, error=0.5, agreement=0.9, latency_us=200),
    Restored(layers=1, layer="conv_7", fp32_share=0.25, error=0.125, agreement=0.98, latency_us=212.4),
    Restored(layers=2, layer="fc", fp32_share=0.3, error=0.03, agreement=1.0, latency_us=213),
)
UNTIMED = tuple(point.model_copy(update={"latency_us": None, "agreement": None}) for point in WAY)


def test_the_way_is_a_table() -> None:
    assert lines(WAY) == [
        "in fp32  last one  other top-1   error  of multiply-accumulates  us a call",
        "      0         -       10.00%  50.00%                     0.0%        200",
        "      1    conv_7        2.00%  12.50%                    25.0%        212",
        "      2        fc        0.00%   3.00%                    30.0%        213",
    ]
    assert lines(UNTIMED)[1].split() == ["0", "-", "-", "50.00%", "0.0%", "-"]
    assert lines(()) == []


def test_the_page_draws_answers_above_and_latency_below(tmp_path: Path) -> None:
    write_curve("title", WAY, tmp_path / "way.html")
    traces, layout = figure(tmp_path / "way.html")

    assert [(trace["name"], trace["x"], [round(y, 6) for y in trace["y"]], trace["yaxis"]) for trace in traces] == [
        ("other top-1 answers than fp32, %", [0, 1, 2], [10, 2, 0], "y"),
        ("error of the outputs, %", [0, 1, 2], [50, 12.5, 3], "y"),
        ("estimated latency, us a call", [0, 1, 2], [200, 212.4, 213], "y2"),
    ]
    assert layout["title"]["text"] == "<b>title</b>"
    assert layout["xaxis2"]["ticktext"] == ["0", "1 conv_7", "2 fc"]
    assert layout["yaxis2"]["title"]["text"] == "estimated latency, us a call"


def test_without_times_or_classes_the_share_in_fp32_and_the_error_are_drawn(tmp_path: Path) -> None:
    write_curve("title", UNTIMED, tmp_path / "way.html")
    traces, _ = figure(tmp_path / "way.html")

    assert [(trace["name"], trace["y"]) for trace in traces] == [
        ("error of the outputs, %", [50, 12.5, 3]),
        ("multiply-accumulates in fp32, %", [0, 25, 30]),
    ]


def test_a_long_way_is_numbered_and_a_short_one_names_its_layers(tmp_path: Path) -> None:
    long = tuple(WAY[1].model_copy(update={"layers": layers}) for layers in range(3 * LABELLED))
    write_curve("title", long, tmp_path / "way.html")
    _, layout = figure(tmp_path / "way.html")

    assert layout["xaxis2"]["ticktext"][:3] == ["0", "4", "8"]
    assert len(layout["xaxis2"]["ticktext"]) <= LABELLED


@pytest.mark.parametrize("way", [WAY, UNTIMED, WAY[:1]])
def test_the_picture_is_one(way: tuple[Restored, ...], tmp_path: Path) -> None:
    write_curve("title", way, tmp_path / "way.png")
    assert (tmp_path / "way.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"give a file that ends in \.html or \.png"):
        write_curve("title", WAY, tmp_path / "way.pdf")
    with pytest.raises(BadInputError, match="there is no int8-mixed candidate"):
        write_curve("title", (), tmp_path / "way.png")
