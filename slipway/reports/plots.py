"""The Pareto plot: accuracy drop against latency, for people, as an interactive page or a picture."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from slipway.decisions.choice import pareto_front
from slipway.errors import BadInputError
from slipway.records import Evidence, Record

POINTS = 100
X_TITLE = "latency p50, ms (batch 1)"
Y_TITLE = "accuracy drop, percentage points (bar: upper bound)"


class Point(Record):
    """One measured candidate: latency in ms, accuracy drop and its upper bound in percentage points."""

    label: str
    role: str
    latency_ms: float
    drop: float
    drop_upper: float


def points(evidences: Iterable[Evidence], chosen: Collection[str]) -> list[Point]:
    """What can be drawn of ``evidences``; ``chosen`` holds digests."""
    measured = [evidence for evidence in evidences if evidence.accuracy and evidence.timing]
    front = pareto_front(measured)
    return [_point(evidence, chosen, front) for evidence in measured]


def _point(evidence: Evidence, chosen: Collection[str], front: Collection[str]) -> Point:
    assert evidence.accuracy is not None
    assert evidence.timing is not None
    role = "chosen" if evidence.digest in chosen else "Pareto front" if evidence.digest in front else "dominated"
    return Point(
        label=str(evidence.spec),
        role=role,
        latency_ms=evidence.timing.latency.p50_ms,
        drop=evidence.accuracy.drop * POINTS,
        # Drop and bound are summed in different orders: where all examples lose as much, rounding may swap the two.
        drop_upper=max(evidence.accuracy.drop_upper, evidence.accuracy.drop) * POINTS,
    )


def write_plot(title: str, drawn: list[Point], path: Path) -> None:
    """Write the plot to ``path``, as its suffix says: ``.html`` or ``.png``.

    Raises:
        BadInputError: another suffix, nothing to draw, or a place that cannot be written to.
    """
    writers = {".html": _write_html, ".png": _write_png}
    if path.suffix not in writers:
        raise BadInputError(f"cannot plot to {path}: give a file that ends in {' or '.join(writers)}")
    if not drawn:
        raise BadInputError(f"cannot plot {title}: no candidate has both an accuracy and a latency")
    try:
        writers[path.suffix](title, drawn, path)
    except OSError as error:
        raise BadInputError(
            f"cannot plot to {path}: {error.strerror}; give a file in a directory that exists"
        ) from error


def _by_role(drawn: list[Point]) -> dict[str, list[Point]]:
    return {
        role: found
        for role in ("chosen", "Pareto front", "dominated")
        if (found := [p for p in drawn if p.role == role])
    }


def _write_html(title: str, drawn: list[Point], path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for role, found in _by_role(drawn).items():
        figure.add_scatter(
            x=[p.latency_ms for p in found],
            y=[p.drop for p in found],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [p.drop_upper - p.drop for p in found],
                "arrayminus": [0.0] * len(found),
            },
            mode="markers+text",
            text=[p.label for p in found],
            textposition="top center",
            name=role,
            marker={"size": 14 if role == "chosen" else 9},
        )
    figure.update_layout(title=title, template="plotly_white")
    figure.update_xaxes(title=X_TITLE, type="log")
    figure.update_yaxes(title=Y_TITLE)
    figure.write_html(path, div_id="pareto")


def _write_png(title: str, drawn: list[Point], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes: Any = figure.subplots()
    for role, found in _by_role(drawn).items():
        axes.errorbar(
            [p.latency_ms for p in found],
            [p.drop for p in found],
            yerr=[[0.0] * len(found), [p.drop_upper - p.drop for p in found]],
            fmt="*" if role == "chosen" else "o",
            markersize=14 if role == "chosen" else 6,
            capsize=3,
            label=role,
        )
        for p in found:
            axes.annotate(p.label, (p.latency_ms, p.drop), (5, 5), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", xlabel=X_TITLE, ylabel=Y_TITLE, title=title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
