"""The figures of a release as small JSON and CSV files, for `dvc metrics` and `dvc plots` to show and compare."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from slipway.measure.parity import top1
from slipway.measure.predictions import load_predictions
from slipway.records import Evidence, Release, TargetOutcome
from slipway.reports.plots import points
from slipway.reports.summary import is_chosen

COLUMNS = {"accuracy": "accuracy", "p50_ms": "latency_p50_ms", "p99_ms": "latency_p99_ms", "drop": "drop"}


def tables(release: Release, answers: Callable[[TargetOutcome], Path]) -> dict[str, str]:
    """The text of each file by its path; ``answers`` gives the predictions whose confusion is shown.

    ``metrics.json`` holds the chosen candidate of each target, ``candidates/TARGET/VARIANT-ENGINE.json`` one measured
    candidate; ``TARGET/pareto.csv``, ``latency.csv`` and ``confusion.csv`` hold what is plotted.
    """
    files = {"metrics.json": _json({outcome.target: _conclusion(outcome) for outcome in release.targets})}
    for outcome in release.targets:
        place = outcome.target
        for evidence in outcome.candidates:
            if figures := _figures(evidence):
                files[f"candidates/{place}/{evidence.spec.variant}-{evidence.spec.engine}.json"] = _json(figures)
        files[f"{place}/pareto.csv"] = _csv(
            ("candidate", "role", "percentile", "latency_ms", "drop", "drop_upper"), _pareto(outcome)
        )
        files[f"{place}/latency.csv"] = _csv(("candidate", "percentile", "latency_ms"), _latencies(outcome))
        files[f"{place}/confusion.csv"] = _csv(("actual", "predicted"), _confusion(answers(outcome)))
    return files


def _conclusion(outcome: TargetOutcome) -> dict[str, object]:
    """The chosen candidate in few, short columns, the most asked for first: a terminal cuts `dvc exp show` off."""
    told: dict[str, object] = {"chosen": "none"}
    for evidence in outcome.candidates:
        if is_chosen(outcome, evidence):
            figures = _figures(evidence)
            told["chosen"] = str(evidence.spec)
            told |= {short: figures[name] for short, name in COLUMNS.items() if name in figures}
    return told | {"verdict": str(outcome.decision.verdict)}


def _figures(evidence: Evidence) -> dict[str, object]:
    """What was measured on one candidate; a latency percentile that its samples do not support is left out."""
    if evidence.accuracy is None or evidence.timing is None:
        return {}
    figures = {
        "accuracy": evidence.accuracy.value,
        "drop": evidence.accuracy.drop,
        "drop_upper": evidence.accuracy.drop_upper,
        "latency_p50_ms": evidence.timing.latency.p50_ms,
        "latency_p99_ms": evidence.timing.latency.p99_ms,
        "speedup": evidence.timing.speedup.value,
        "size_bytes": evidence.size_bytes,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _pareto(outcome: TargetOutcome) -> Iterable[tuple[object, ...]]:
    for point in points(outcome.candidates, {(outcome.target, outcome.chosen)} if outcome.chosen else ()):
        yield point.label, point.role, point.percentile, point.latency_ms, point.drop, point.drop_upper


def _latencies(outcome: TargetOutcome) -> Iterable[tuple[object, ...]]:
    measured = [(str(e.spec), e.timing.latency) for e in outcome.candidates if e.timing]
    if outcome.reference_latency:
        measured = [("reference", outcome.reference_latency), *measured]
    for name, latency in measured:
        for percentile, value in (("p50", latency.p50_ms), ("p90", latency.p90_ms), ("p99", latency.p99_ms)):
            if value is not None:
                yield name, percentile, value


def _confusion(predictions: Path) -> Iterable[tuple[object, ...]]:
    """The target and the answer to each example, where the model is a classifier."""
    outputs, target = load_predictions(predictions)
    scores = next(iter(outputs.values()))
    if scores.ndim == 2 and target.ndim == 1 and np.issubdtype(target.dtype, np.integer):
        yield from zip(target.tolist(), top1(scores).tolist(), strict=True)


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _csv(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
