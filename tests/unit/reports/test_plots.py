from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import BadInputError
from slipway.records import Evidence
from slipway.reports.plots import Point, points, write_plot
from tests.fakes.evidence import ACCURACY, TIMING, evidence


def measured(digest: str, p50_ms: float, drop: float, variant: str) -> Evidence:
    plain = evidence(digest * 64)
    latency = TIMING.latency.model_copy(update={"p50_ms": p50_ms})
    return plain.model_copy(
        update={
            "spec": plain.spec.model_copy(update={"variant": variant}),
            "timing": TIMING.model_copy(update={"latency": latency}),
            "accuracy": ACCURACY.model_copy(update={"drop": drop, "drop_upper": drop + 0.002}),
        }
    )


@pytest.fixture
def drawn() -> list[Point]:
    return points(
        [
            measured("1", 1, 0.004, "int8-static"),
            measured("2", 2, 0.001, "fp32"),
            measured("3", 3, 0.002, "bf16"),
            evidence(None, timing=None),
            evidence("4" * 64, accuracy=None),
        ],
        {"2" * 64},
    )


def test_points_are_in_percentage_points_with_their_roles(drawn: list[Point]) -> None:
    assert drawn == [
        Point(label="int8-static/onnxruntime", role="Pareto front", latency_ms=1, drop=0.4, drop_upper=0.6),
        Point(label="fp32/onnxruntime", role="chosen", latency_ms=2, drop=0.1, drop_upper=0.3),
        Point(label="bf16/onnxruntime", role="dominated", latency_ms=3, drop=0.2, drop_upper=0.4),
    ]


def test_the_page_is_complete_in_itself(drawn: list[Point], tmp_path: Path) -> None:
    """Neither a server nor the network is asked for anything."""
    page = tmp_path / "pareto.html"
    write_plot("models:/digits/1 on x86", drawn, page)

    text = page.read_text(encoding="utf-8")
    for told in ("models:\\u002fdigits\\u002f1 on x86", "chosen", "Pareto front", "dominated", "latency p50, ms"):
        assert told in text or told.replace("\\u002f", "/") in text
    for label in ("int8-static", "fp32", "bf16"):
        assert f"{label}/onnxruntime" in text or f"{label}\\u002fonnxruntime" in text
    assert "<script src=" not in text
    assert '<script charset="utf-8" src=' not in text


def test_the_same_points_give_the_same_page(drawn: list[Point], tmp_path: Path) -> None:
    pages = [tmp_path / "first.html", tmp_path / "second.html"]
    for page in pages:
        write_plot("title", drawn, page)

    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_the_picture_is_a_picture(drawn: list[Point], tmp_path: Path) -> None:
    picture = tmp_path / "pareto.png"
    write_plot("models:/digits/1 on x86", drawn, picture)

    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    assert (width, height) == (1080, 660)


@pytest.mark.parametrize("name", ["pareto.svg", "pareto", "pareto.PNG.txt"])
def test_another_suffix_is_bad_input(name: str, drawn: list[Point], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"give a file that ends in \.html or \.png$"):
        write_plot("title", drawn, tmp_path / name)


def test_nothing_to_draw_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"^cannot plot title: no candidate has both"):
        write_plot("title", [], tmp_path / "pareto.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_a_directory_that_is_not_there_is_bad_input(suffix: str, drawn: list[Point], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot plot to "):
        write_plot("title", drawn, tmp_path / "nowhere" / f"pareto{suffix}")


def test_a_bound_that_rounding_puts_below_the_drop_is_drawn_as_no_bar(tmp_path: Path) -> None:
    """Matplotlib refuses a bar of negative length."""
    plain = measured("1", 1, 0.3, "fp32")
    assert plain.accuracy is not None
    rounded = plain.accuracy.model_copy(update={"drop_upper": 0.3 - 1e-16})
    (point,) = points([plain.model_copy(update={"accuracy": rounded})], ())

    assert point.drop_upper == point.drop
    for suffix in (".html", ".png"):
        write_plot("title", [point], tmp_path / f"pareto{suffix}")
