"""The files a person opens after a release: the report and, per target, the Pareto plot."""

from __future__ import annotations

from slipway.records import Artifact, Release
from slipway.reports.plots import points, write_plot
from slipway.reports.summary import markdown
from slipway.stores.objects import ObjectStore


def report(objects: ObjectStore, release: Release) -> tuple[Artifact, ...]:
    """Write ``report.md``, and ``pareto-TARGET.html`` and ``.png`` for each target with a measured candidate."""
    with objects.new_dir() as folder:
        text = folder / "report.md"
        text.write_text(markdown(release), encoding="utf-8")
        files = [text]
        for outcome in release.targets:
            drawn = points(outcome.candidates, {outcome.chosen} if outcome.chosen else ())
            if drawn:
                plots = [folder / f"pareto-{outcome.target}{suffix}" for suffix in (".html", ".png")]
                for plot in plots:
                    write_plot(f"{release.model.uri} on {outcome.target}", drawn, plot)
                files += plots
        return tuple(objects.put(file) for file in files)
