from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import BadInputError
from slipway.records import Decision, Evidence, Interval, Latency, Verdict
from slipway.reports.plots import Point, left_out, points, write_plot
from tests.fakes.evidence import ACCURACY, TIMING, evidence

CHOSEN = "2" * 64


def timed(p50_ms: float, p99_ms: float | None, lower: float | None = None, upper: float | None = None) -> Latency:
    interval = Interval(value=p99_ms, lower=lower, upper=upper) if p99_ms and lower and upper else None
    return TIMING.latency.model_copy(update={"p50_ms": p50_ms, "p99_ms": p99_ms, "p99_interval_ms": interval})


def measured(
    digest: str,
    latency: Latency,
    drop: float,
    variant: str = "fp32",
    verdict: Verdict = Verdict.PASS,
    target: str = "x86",
    metric: str = "top1",
) -> Evidence:
    plain = evidence(digest * 64)
    timing = TIMING.model_copy(update={"latency": latency, "reference_latency": timed(8, 12, 11, 15)})
    return plain.model_copy(
        update={
            "spec": plain.spec.model_copy(update={"variant": variant, "target": target}),
            "timing": timing,
            "accuracy": ACCURACY.model_copy(update={"metric": metric, "drop": drop, "drop_upper": drop + 0.002}),
            "decision": Decision(verdict=verdict, reasons=("why",)),
        }
    )


@pytest.fixture
def evidences() -> list[Evidence]:
    return [
        measured("1", timed(1, 1.5, 1.4, 2.5), 0.004, "int8-static", Verdict.FAIL),
        measured("2", timed(2, 3, 2.8, 3.5), 0.001, "fp32"),
        measured("3", timed(3, 4), 0.002, "bf16", Verdict.INCONCLUSIVE),
        measured("4", timed(0.5, None), 0.0, "int8-dynamic"),
        evidence(None, timing=None),
        evidence("5" * 64, accuracy=None),
    ]


@pytest.fixture
def drawn(evidences: list[Evidence]) -> list[Point]:
    return points(evidences, {("x86", CHOSEN)})


def figure(page: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Traces and layout, as the browser is given them."""
    text, decoder = page.read_text(encoding="utf-8"), json.JSONDecoder()
    start = text.index("[", text.rindex("Plotly.newPlot("))
    traces, length = decoder.raw_decode(text[start:])
    layout, _ = decoder.raw_decode(text[text.index("{", start + length) :])
    return traces, layout


def drawn_page(title: str, drawn: list[Point], folder: Path, left_out: tuple[str, ...] = ()) -> Any:
    page = folder / "pareto.html"
    write_plot(title, drawn, page, left_out)
    return figure(page)


def test_points_are_tail_latencies_and_percentage_points_with_their_roles(drawn: list[Point]) -> None:
    told = [(p.label, p.role, p.verdict, p.latency_ms, round(p.drop, 9), round(p.drop_upper, 9)) for p in drawn]
    assert told == [
        ("int8-static/onnxruntime", "Pareto front", Verdict.FAIL, 1.5, 0.4, 0.6),
        ("fp32/onnxruntime", "chosen", Verdict.PASS, 3, 0.1, 0.3),
        ("bf16/onnxruntime", "dominated", Verdict.INCONCLUSIVE, 4, 0.2, 0.4),
        ("reference", "reference", None, 12, 0, 0),
    ]
    assert {p.percentile for p in drawn} == {"p99"}
    assert [p.on_front for p in drawn] == [True, True, False, False]


def test_the_interval_of_the_p99_is_kept_where_there_is_one(drawn: list[Point]) -> None:
    bars = [(p.latency_lower_ms, p.latency_upper_ms) for p in drawn]
    assert bars == [(1.4, 2.5), (2.8, 3.5), (4, 4), (11, 15)]


def test_without_any_p99_the_median_is_drawn_and_said(tmp_path: Path) -> None:
    drawn = points([measured("1", timed(1, None), 0.004), measured("2", timed(2, None), 0.001)], ())
    assert [(p.percentile, p.latency_ms) for p in drawn] == [("p50", 1), ("p50", 2), ("p50", 8)]
    _, layout = drawn_page("title", drawn, tmp_path)
    assert layout["xaxis"]["title"]["text"] == "latency p50, ms (batch 1)"
    assert "No candidate has the samples that a p99 needs, so this is the p50." in layout["title"]["text"]


def test_what_cannot_be_drawn_is_named_below_the_title(evidences: list[Evidence], tmp_path: Path) -> None:
    missing = left_out(evidences)
    assert missing == ["int8-dynamic/onnxruntime", "fp32/onnxruntime", "fp32/onnxruntime"]
    _, layout = drawn_page("title", points(evidences, ()), tmp_path, tuple(missing))
    assert "Not drawn, without an accuracy or a p99: int8-dynamic/onnxruntime, fp32/" in layout["title"]["text"]
    _, complete = drawn_page("title", points(evidences, ()), tmp_path)
    assert "Not drawn" not in complete["title"]["text"]


def test_many_that_cannot_be_drawn_do_not_push_the_plot_away(drawn: list[Point], tmp_path: Path) -> None:
    _, layout = drawn_page("title", drawn, tmp_path, tuple(f"int8-static/engine-{i}" for i in range(99)))
    assert layout["title"]["text"].count("<br>") == 3
    assert layout["title"]["text"].endswith(" ...</span>")


def test_each_target_has_its_own_front_and_reference() -> None:
    here = [measured("1", timed(1, 2), 0.001), measured("2", timed(1, 3), 0.002)]
    there = [measured("3", timed(5, 20), 0.003, target="arm"), measured("4", timed(5, 30), 0.004, target="arm")]
    drawn = points(here + there, ())
    assert [(p.label, p.on_front) for p in drawn] == [
        ("fp32/onnxruntime on x86", True),
        ("fp32/onnxruntime on x86", False),
        ("fp32/onnxruntime on arm", True),
        ("fp32/onnxruntime on arm", False),
        ("reference on x86", False),
        ("reference on arm", False),
    ]


def test_a_file_that_two_targets_share_is_chosen_and_on_the_front_of_each_by_itself() -> None:
    here = [measured("1", timed(1, 2), 0.001)]
    there = [measured("1", timed(5, 30), 0.004, target="arm"), measured("3", timed(5, 20), 0.003, target="arm")]
    shared_here, shared_there, other, *_ = points(here + there, {("x86", "1" * 64)})
    assert [(p.role, p.on_front) for p in (shared_here, shared_there, other)] == [
        ("chosen", True),
        ("dominated", False),
        ("Pareto front", True),
    ]


@pytest.mark.parametrize(
    ("metric", "drop", "title"),
    [("topk:5", 0.4, "topk:5 drop, percentage points"), ("mae", 0.004, "mae drop"), ("a.b:c", 0.004, "a.b:c drop")],
)
def test_only_shares_are_told_in_percentage_points(metric: str, drop: float, title: str, tmp_path: Path) -> None:
    drawn = points([measured("1", timed(1, 2), 0.004, metric=metric)], ())
    assert drawn[0].drop == pytest.approx(drop)
    assert drawn_page("title", drawn, tmp_path)[1]["yaxis"]["title"]["text"] == title


def test_the_page_is_complete_in_itself(drawn: list[Point], tmp_path: Path) -> None:
    """Neither a server nor the network is asked for anything."""
    page = tmp_path / "pareto.html"
    write_plot("models:/digits/1 on x86", drawn, page)

    text = page.read_text(encoding="utf-8")
    assert "<script src=" not in text
    assert '<script charset="utf-8" src=' not in text


def test_the_page_shows_role_by_colour_and_verdict_by_shape(drawn: list[Point], tmp_path: Path) -> None:
    traces, layout = drawn_page("models:/digits/1 on x86", drawn, tmp_path)
    marks = {trace["name"]: trace for trace in traces if "name" in trace}
    assert list(marks) == ["chosen, PASS", "Pareto front, FAIL", "dominated, INCONCLUSIVE", "reference"]
    assert len({trace["marker"]["color"] for trace in marks.values()}) == 4
    assert [trace["marker"]["symbol"] for trace in marks.values()] == ["circle", "x", "diamond", "cross"]
    chosen = marks["chosen, PASS"]
    assert (chosen["x"], chosen["y"], chosen["text"]) == ([3], [0.1], ["fp32/onnxruntime"])
    assert chosen["error_x"]["array"] == pytest.approx([0.5])
    assert chosen["error_x"]["arrayminus"] == pytest.approx([0.2])
    assert chosen["error_y"]["array"] == pytest.approx([0.2])
    assert chosen["error_y"]["arrayminus"] == [0]
    assert layout["title"]["text"].startswith("<b>models:/digits/1 on x86</b><br>")
    assert layout["xaxis"]["title"]["text"] == "latency p99, ms (batch 1)"
    assert layout["yaxis"]["title"]["text"] == "top1 drop, percentage points"
    assert re.search(
        r"p99 3 ms \(2.8 to 3.5\)<br>top1 drop 0.1 points, at most 0.3<br>chosen, PASS$", *chosen["hovertext"]
    )


def test_the_front_is_a_line_of_steps_through_the_chosen_one_too(drawn: list[Point], tmp_path: Path) -> None:
    traces, _ = drawn_page("title", drawn, tmp_path)
    (line,) = (trace for trace in traces if trace["mode"] == "lines")
    assert (line["x"], line["y"], line["line"]["shape"]) == ([1.5, 3], [0.4, 0.1], "hv")


def test_a_hopeless_drop_is_drawn_at_the_edge_and_told_beside_its_name(tmp_path: Path) -> None:
    sound, hopeless = measured("1", timed(1, 2), 0.001), measured("2", timed(0.5, 1), 0.85, "int8", Verdict.FAIL)
    traces, layout = drawn_page("title", points([sound, hopeless], ()), tmp_path)
    (mark,) = (trace for trace in traces if trace.get("name") == "Pareto front, FAIL")
    assert mark["text"] == ["int8/onnxruntime ↑ 85"]
    assert mark["y"] == [pytest.approx(0.6)]
    assert layout["yaxis"]["range"][1] < 1
    assert "top1 drop 85 points, at most 85.2" in mark["hovertext"][0]
    assert "↑: a drop beyond the scale." in layout["title"]["text"]


def test_the_latency_axis_is_logarithmic_only_where_it_helps(tmp_path: Path) -> None:
    near = points([measured("1", timed(1, 6), 0.001)], ())
    far = points([measured("1", timed(1, 0.5), 0.001)], ())
    assert drawn_page("title", near, tmp_path)[1]["xaxis"]["type"] == "linear"
    axis = drawn_page("title", far, tmp_path)[1]["xaxis"]
    assert (axis["type"], 10 ** axis["range"][0] < 0.5, 10 ** axis["range"][1] > 15) == ("log", True, True)


def test_the_same_points_give_the_same_page(drawn: list[Point], tmp_path: Path) -> None:
    pages = [tmp_path / "first.html", tmp_path / "second.html"]
    for page in pages:
        write_plot("title", drawn, page)

    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_the_picture_is_a_picture(drawn: list[Point], tmp_path: Path) -> None:
    picture = tmp_path / "pareto.png"
    write_plot("models:/digits/1 on x86", drawn, picture, ["int8-dynamic/onnxruntime"])

    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    assert (width, height) == (1650, 1050)


def test_the_picture_shows_each_mark_in_its_colour(drawn: list[Point], tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture = tmp_path / "pareto.png"
    write_plot("title", drawn, picture)
    pixels = imread(picture)[..., :3]
    for colour in ("#D55E00", "#0072B2", "#8A8A8A", "#000000"):
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(pixels - wanted).max(axis=-1) < 0.01).sum() > 20, colour


@pytest.mark.parametrize("name", ["pareto.svg", "pareto", "pareto.PNG.txt"])
def test_another_suffix_is_bad_input(name: str, drawn: list[Point], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"give a file that ends in \.html or \.png$"):
        write_plot("title", drawn, tmp_path / name)


def test_nothing_to_draw_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"^cannot plot title: no candidate has both"):
        write_plot("title", points([evidence(None, timing=None)], ()), tmp_path / "pareto.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_a_directory_that_is_not_there_is_bad_input(suffix: str, drawn: list[Point], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot plot to "):
        write_plot("title", drawn, tmp_path / "nowhere" / f"pareto{suffix}")


def test_a_bound_that_rounding_puts_below_the_drop_is_drawn_as_no_bar(tmp_path: Path) -> None:
    """Matplotlib refuses a bar of negative length."""
    plain = measured("1", timed(1, 2), 0.3)
    assert plain.accuracy is not None
    rounded = plain.accuracy.model_copy(update={"drop_upper": 0.3 - 1e-16})
    drawn = points([plain.model_copy(update={"accuracy": rounded})], ())

    assert drawn[0].drop_upper == drawn[0].drop
    for suffix in (".html", ".png"):
        write_plot("title", drawn, tmp_path / f"pareto{suffix}")


@pytest.mark.parametrize("drops", [[0.0], [-0.01, -0.02], [0.0, 0.0, 0.0]])
def test_equal_and_negative_drops_are_drawn_too(drops: list[float], tmp_path: Path) -> None:
    drawn = points([measured(str(i), timed(1, 2), drop, f"v{i}") for i, drop in enumerate(drops)], ())
    for suffix in (".html", ".png"):
        write_plot("title", drawn, tmp_path / f"pareto{suffix}")
    _, layout = figure(tmp_path / "pareto.html")
    assert layout["yaxis"]["range"][0] < min(drops) * 100
    assert layout["yaxis"]["range"][1] > 0
