"""The Pareto plot: accuracy drop against tail latency, for people, as an interactive page or a picture.

Colours (Okabe and Ito's, told apart by the colour-blind) show the role of a candidate, shapes its verdict.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slipway.errors import BadInputError
from slipway.records import Verdict
from slipway.reports.layout import RINGS_PX, Frame, Label, Mark, ceiling, frame, labels
from slipway.reports.points import REFERENCE, Point, left_out, points

__all__ = ["Point", "left_out", "points", "write_plot"]

COLOURS = {"chosen": "#D55E00", "Pareto front": "#0072B2", "dominated": "#8A8A8A", REFERENCE: "#000000"}
SHAPES = {Verdict.PASS: ("circle", "o"), Verdict.FAIL: ("x", "X"), Verdict.INCONCLUSIVE: ("diamond", "D")}
OTHER_SHAPE = ("square", "s")
REFERENCE_SHAPE = ("cross", "P")
WIDTH_PX, HEIGHT_PX = 1100, 700  # the picture's, at 100 pixels per inch; the page has as many
MARGIN_PX = {"l": 85, "r": 30, "t": 95, "b": 115}
LINE_CHARACTERS, LINES = 150, 2
POINTS_PER_PX = 0.72
FONT_POINTS = 8


class _Shown(NamedTuple):
    """A point as it is drawn: its mark, and where its label goes."""

    point: Point
    mark: Mark
    label: Label


class _Plot(NamedTuple):
    """All that a page or picture shows."""

    title: str
    told: list[str]
    x_title: str
    y_title: str
    frame: Frame
    shown: list[_Shown]

    def groups(self) -> dict[str, list[_Shown]]:
        """What is drawn alike, by its line in the legend: roles in the order of their colours, then verdicts."""
        groups: dict[str, list[_Shown]] = {}
        for role, verdict in itertools.product(COLOURS, (*Verdict, None)):
            alike = [shown for shown in self.shown if (shown.point.role, shown.point.verdict) == (role, verdict)]
            if alike:
                groups[f"{role}, {verdict}" if verdict else role] = alike
        return groups

    def fronts(self) -> list[list[Mark]]:
        """The marks on each target's front, fastest first."""
        on_front = sorted((s for s in self.shown if s.point.on_front), key=lambda shown: shown.mark.x)
        targets = dict.fromkeys(shown.point.target for shown in on_front)
        return [[shown.mark for shown in on_front if shown.point.target == target] for target in targets]


def write_plot(title: str, drawn: Sequence[Point], path: Path, left_out: Sequence[str] = ()) -> None:
    """Write the plot to ``path``, as its suffix says: ``.html`` or ``.png``; ``left_out`` are named below the title.

    Raises:
        BadInputError: another suffix, nothing to draw, or a place that cannot be written to.
    """
    writers = {".html": (_write_html, RINGS_PX[:1]), ".png": (_write_png, RINGS_PX)}
    if path.suffix not in writers:
        raise BadInputError(f"cannot plot to {path}: give a file that ends in {' or '.join(writers)}")
    if not drawn:
        raise BadInputError(f"cannot plot {title}: no candidate has both an accuracy and a latency")
    write, rings_px = writers[path.suffix]
    try:
        write(_plot(title, drawn, left_out, rings_px), path)
    except OSError as error:
        raise BadInputError(
            f"cannot plot to {path}: {error.strerror}; give a file in a directory that exists"
        ) from error


def _plot(title: str, drawn: Sequence[Point], left_out: Sequence[str], rings_px: Iterable[float]) -> _Plot:
    highest = ceiling([p.drop_upper for p in drawn], [p.verdict is Verdict.FAIL for p in drawn])
    # Labels are placed in this order: the first ones get the best places.
    ranked = sorted(drawn, key=lambda point: list(COLOURS).index(point.role))
    marks = [_mark(point, highest) for point in ranked]
    inner_px = WIDTH_PX - MARGIN_PX["l"] - MARGIN_PX["r"], HEIGHT_PX - MARGIN_PX["t"] - MARGIN_PX["b"]
    own_frame = frame(marks, *inner_px)
    first, shown = drawn[0], zip(ranked, marks, labels(own_frame, marks, rings_px), strict=True)
    batches = ", ".join(str(batch) for batch in sorted({point.batch for point in drawn}))
    metrics = ", ".join(dict.fromkeys(point.metric for point in drawn))
    return _Plot(
        title=title,
        told=_told(first, left_out, clipped=any(point.drop > highest for point in drawn)),
        x_title=f"latency {first.percentile}, ms (batch {batches})",
        y_title=f"{metrics} drop{', percentage points' if first.in_points else ''}",
        frame=own_frame,
        shown=[_Shown(*each) for each in shown],
    )


def _mark(point: Point, highest: float) -> Mark:
    """A drop above ``highest`` is drawn there, and told beside the name."""
    label = point.label if point.drop <= highest else f"{point.label} ↑ {point.drop:.3g}"
    left, right = point.latency_lower_ms, point.latency_upper_ms
    top, beside = min(point.drop_upper, highest), point.role == "chosen"
    return Mark(label, point.latency_ms, min(point.drop, highest), left, right, top, beside)


def _told(first: Point, left_out: Sequence[str], clipped: bool) -> list[str]:
    """What the bars are and what is missing, in lines."""
    bars = "Bars: 95% interval of the p99, upper bound of the drop."
    if first.percentile == "p50":
        bars = "No candidate has the samples that a p99 needs, so this is the p50. Bars: upper bound of the drop."
    lines = [bars + (" ↑: a drop beyond the scale." if clipped else "")]
    if left_out:
        missing = f"Not drawn, without an accuracy or a {first.percentile}: {', '.join(left_out)}"
        lines += textwrap.wrap(missing, LINE_CHARACTERS, max_lines=LINES, placeholder=" ...")
    return lines


def _shape(point: Point) -> tuple[str, str]:
    """Plotly's name and Matplotlib's."""
    return REFERENCE_SHAPE if point.verdict is None else SHAPES.get(point.verdict, OTHER_SHAPE)


def _write_html(plot: _Plot, path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for marks in plot.fronts():
        line = {"shape": "hv", "color": COLOURS["Pareto front"], "width": 1.5}
        x, y = [mark.x for mark in marks], [mark.y for mark in marks]
        figure.add_scatter(x=x, y=y, mode="lines", line=line, opacity=0.4, hoverinfo="skip", showlegend=False)
    for name, group in plot.groups().items():
        role, marks = group[0].point.role, [shown.mark for shown in group]
        bars = {"type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": f"{COLOURS[role]}80"}
        figure.add_scatter(
            x=[mark.x for mark in marks],
            y=[mark.y for mark in marks],
            error_x=bars | {"array": [m.right - m.x for m in marks], "arrayminus": [m.x - m.left for m in marks]},
            error_y=bars | {"array": [m.top - m.y for m in marks], "arrayminus": [0.0] * len(marks)},
            mode="markers+text",
            text=[mark.label for mark in marks],
            textposition=[_text_position(shown.label) for shown in group],
            textfont={"size": 11, "color": "#333333"},
            hovertext=[_hover(shown.point) for shown in group],
            hoverinfo="text",
            name=name,
            marker={
                "size": 15 if role == "chosen" else 10,
                "color": COLOURS[role],
                "symbol": _shape(group[0].point)[0],
                "line": {"width": 1, "color": "white"},
            },
        )
    told = "<br>".join(f"<span style='font-size:12px;color:#666666'>{line}</span>" for line in plot.told)
    figure.update_layout(
        title={"text": f"<b>{plot.title}</b><br>{told}", "x": 0.01, "xanchor": "left", "font": {"size": 17}},
        template="plotly_white",
        height=HEIGHT_PX,
        margin=MARGIN_PX,
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    ranges = plot.frame.x_range, plot.frame.y_range
    scale = {"type": "log", "dtick": "D2"} if plot.frame.logarithmic else {"type": "linear"}
    figure.update_xaxes(title=plot.x_title, **scale, range=ranges[0])
    figure.update_yaxes(title=plot.y_title, range=ranges[1], zerolinecolor="#999999")
    figure.write_html(path, div_id="pareto")


def _text_position(label: Label) -> str:
    x, y = label.direction
    return f"{('middle', 'top', 'bottom')[y]} {('center', 'right', 'left')[x]}"


def _hover(point: Point) -> str:
    unit, bars = " points" if point.in_points else "", point.latency_lower_ms < point.latency_upper_ms
    within = f" ({point.latency_lower_ms:.4g} to {point.latency_upper_ms:.4g})" if bars else ""
    lines = [f"<b>{point.label}</b>", f"{point.percentile} {point.latency_ms:.4g} ms{within}"]
    if point.verdict:
        lines.append(f"{point.metric} drop {point.drop:.3g}{unit}, at most {point.drop_upper:.3g}")
        lines.append(f"{point.role}, {point.verdict}")
    return "<br>".join(lines)


def _write_png(plot: _Plot, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(WIDTH_PX / 100, HEIGHT_PX / 100))
    left, bottom = MARGIN_PX["l"] / WIDTH_PX, MARGIN_PX["b"] / HEIGHT_PX
    axes: Any = figure.add_axes((left, bottom, plot.frame.width_px / WIDTH_PX, plot.frame.height_px / HEIGHT_PX))
    axes.set(xlabel=plot.x_title, ylabel=plot.y_title, ylim=plot.frame.y_range)
    axes.set_xlim(plot.frame.x_range)
    if plot.frame.logarithmic:
        axes.set(xscale="log", xlim=[10**edge for edge in plot.frame.x_range])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_major_formatter(lambda latency_ms, _: f"{latency_ms:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=FONT_POINTS + 1)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    for marks in plot.fronts():
        x, y = [mark.x for mark in marks], [mark.y for mark in marks]
        axes.step(x, y, where="post", color=COLOURS["Pareto front"], alpha=0.4, linewidth=1.2)
    for name, group in plot.groups().items():
        _draw_group(axes, name, group)
    figure.text(left, 1 - 32 / HEIGHT_PX, plot.title, fontsize=13, fontweight="bold", va="baseline")
    figure.text(left, 1 - 42 / HEIGHT_PX, "\n".join(plot.told), fontsize=FONT_POINTS, color="#666666", va="top")
    figure.legend(loc="lower left", bbox_to_anchor=(left - 0.01, 0), ncols=5, frameon=False, fontsize=FONT_POINTS + 1)
    figure.savefig(path, dpi=150)


def _draw_group(axes: Any, name: str, group: list[_Shown]) -> None:
    from matplotlib.patheffects import withStroke

    role, marks = group[0].point.role, [shown.mark for shown in group]
    axes.errorbar(
        [mark.x for mark in marks],
        [mark.y for mark in marks],
        xerr=[[mark.x - mark.left for mark in marks], [mark.right - mark.x for mark in marks]],
        yerr=[[0.0] * len(marks), [mark.top - mark.y for mark in marks]],
        fmt=_shape(group[0].point)[1],
        color=COLOURS[role],
        ecolor=f"{COLOURS[role]}80",
        elinewidth=1,
        capsize=2,
        markersize=11 if role == "chosen" else 7,
        markeredgecolor="white",
        markeredgewidth=0.8,
        label=name,
    )
    halo = [withStroke(linewidth=2, foreground="white")]
    line = {"arrowstyle": "-", "color": "#AAAAAA", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
    for mark, label in ((shown.mark, shown.label) for shown in group):
        x, y = label.direction
        near = label.distance_px <= RINGS_PX[0]
        axes.annotate(
            mark.label,
            (mark.x, mark.y),
            (x * label.distance_px * POINTS_PER_PX, y * label.distance_px * POINTS_PER_PX),
            textcoords="offset points",
            ha=("center", "left", "right")[x],
            va=("center", "bottom", "top")[y],
            fontsize=FONT_POINTS,
            color="#333333",
            path_effects=halo,
            arrowprops=None if near else line | {"relpos": ((0.5, 0, 1)[x], (0.5, 0, 1)[y])},
        )
