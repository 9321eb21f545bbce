from __future__ import annotations

from pathlib import Path

from slipway.reports.summary import markdown
from slipway.steps.report import report
from slipway.stores.objects import ObjectStore
from tests.fakes.evidence import evidence, release
from tests.unit.reports.test_plots import figure
from tests.unit.reports.test_restored import WAY


def test_a_report_and_two_plots_per_target_that_was_measured(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path / "objects")
    found = evidence("1" * 64)
    unmeasured = evidence(None, timing=None, spec=found.spec.model_copy(update={"target": "arm"}))
    done = release(found, unmeasured)

    files = report(objects, done)

    assert [file.name for file in files] == ["report.md", "pareto-x86.html", "pareto-x86.png"]
    assert objects.path(files[0]).read_text(encoding="utf-8") == markdown(done)
    assert report(objects, done)[:2] == files[:2], "the same release gives the same bytes"


def test_the_curve_of_an_int8_mixed_candidate_is_drawn_once(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path / "objects")
    mixed = evidence("2" * 64, restored=WAY)
    elsewhere = mixed.model_copy(update={"spec": mixed.spec.model_copy(update={"engine": "openvino"})})

    files = report(objects, release(evidence("1" * 64), mixed, elsewhere))

    assert [file.name for file in files][-2:] == ["int8-mixed.html", "int8-mixed.png"]
    _, layout = figure(objects.path(files[-2]))
    assert layout["title"]["text"] == "<b>models:/digits/1: int8-mixed</b>"
