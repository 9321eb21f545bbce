"""The files a person opens after a release: the report, per target the Pareto plot, and int8-mixed's curve."""

from __future__ import annotations

import shutil
from pathlib import Path

from slipway.records import Artifact, Release, TargetOutcome
from slipway.reports.plots import left_out, points, write_plot
from slipway.reports.profiles import profile_table
from slipway.reports.restored import write_curve
from slipway.reports.summary import markdown
from slipway.stores.objects import ObjectStore


def report(objects: ObjectStore, release: Release) -> tuple[Artifact, ...]:
    """Write ``report.md``, and ``pareto-TARGET.html`` and ``.png`` for each target with a measured candidate.

    The reference's profile goes with them, as ``reference-TARGET-profile.csv`` and as its tool's own trace; of an
    int8-mixed candidate, ``int8-mixed.html`` and ``.png``.
    """
    with objects.new_dir() as folder:
        text = folder / "report.md"
        text.write_text(markdown(release), encoding="utf-8")
        files = [text]
        for outcome in release.targets:
            drawn = points(outcome.candidates, {(outcome.target, outcome.chosen)} if outcome.chosen else ())
            if drawn:
                plots = [folder / f"pareto-{outcome.target}{suffix}" for suffix in (".html", ".png")]
                for plot in plots:
                    write_plot(f"{release.model.uri} on {outcome.target}", drawn, plot, left_out(outcome.candidates))
                files += plots
            files += _reference_files(objects, folder, outcome)
        files += _curve(folder, release)
        return tuple(objects.put(file) for file in files)


def _curve(folder: Path, release: Release) -> list[Path]:
    """How int8-mixed came to its layers: once, since every engine builds from the same file."""
    candidates = (evidence for outcome in release.targets for evidence in outcome.candidates)
    restored = next((evidence.restored for evidence in candidates if evidence.restored), ())
    files = [folder / f"int8-mixed{suffix}" for suffix in (".html", ".png") if restored]
    for file in files:
        write_curve(f"{release.model.uri}: int8-mixed", restored, file)
    return files


def _reference_files(objects: ObjectStore, folder: Path, outcome: TargetOutcome) -> list[Path]:
    """What the reference executed: as a table, and as its profiler wrote it."""
    files = []
    profile = next((one.reference_profile for one in outcome.candidates if one.reference_profile), None)
    if profile is not None:
        files.append(folder / f"reference-{outcome.target}-profile.csv")
        files[-1].write_text(profile_table(profile), encoding="utf-8")
    if outcome.reference_trace is not None:
        trace = objects.path(outcome.reference_trace)
        files.append(folder / f"reference-{outcome.target}-{trace.name}")
        shutil.copyfile(trace, files[-1])
    return files
