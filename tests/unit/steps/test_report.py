from __future__ import annotations

from pathlib import Path

from slipway.reports.summary import markdown
from slipway.steps.report import report
from slipway.stores.objects import ObjectStore
from tests.fakes.evidence import evidence, release


def test_a_report_and_two_plots_per_target_that_was_measured(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path / "objects")
    found = evidence("1" * 64)
    unmeasured = evidence(None, timing=None, spec=found.spec.model_copy(update={"target": "arm"}))
    done = release(found, unmeasured)

    files = report(objects, done)

    assert [file.name for file in files] == ["report.md", "pareto-x86.html", "pareto-x86.png"]
    assert objects.path(files[0]).read_text(encoding="utf-8") == markdown(done)
    assert report(objects, done)[:2] == files[:2], "the same release gives the same bytes"
