"""int8-mixed's way back to fp32: what each layer gave and cost, as a small table and as a plot of two curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slipway.errors import BadInputError
from slipway.records import Restored

COLOURS = ("#D55E00", "#0072B2", "#009E73")  # Okabe and Ito's, told apart by the colour-blind
WIDTH_PX, HEIGHT_PX = 900, 640
LABELLED, LEVEL = 20, 5  # layers that can be named under the plot, and those that can be without standing upright
X_TITLE = "layers back in fp32"


class _Curve(NamedTuple):
    """One line of the plot: its name and a value for each point of the way."""

    name: str
    values: list[float]


def lines(restored: Sequence[Restored]) -> list[str]:
    """The way as a table, a line for each point; nothing where there is none."""
    if not restored:
        return []
    rows = [("in fp32", "last one", "other top-1", "error", "of multiply-accumulates", "us a call")]
    rows += [
        (
            str(point.layers),
            point.layer or "-",
            "-" if point.agreement is None else f"{1 - point.agreement:.2%}",
            f"{point.error:.2%}",
            f"{point.fp32_share:.1%}",
            "-" if point.latency_us is None else f"{point.latency_us:.0f}",
        )
        for point in restored
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def write_curve(title: str, restored: Sequence[Restored], path: Path) -> None:
    """Write the plot to ``path``, as its suffix says: ``.html`` or ``.png``.

    Above, in percent: top-1 answers that differ from fp32's, and the error of the outputs. Below: a call's estimated
    latency; where no engine told times, the share of multiply-accumulates in fp32.

    Raises:
        BadInputError: another suffix, or no point to draw.
    """
    writers = {".html": _write_html, ".png": _write_png}
    if path.suffix not in writers:
        raise BadInputError(f"cannot plot to {path}: give a file that ends in {' or '.join(writers)}")
    if not restored:
        raise BadInputError(f"cannot plot {title}: there is no int8-mixed candidate")
    writers[path.suffix](title, restored, path)


def _answers(restored: Sequence[Restored]) -> list[_Curve]:
    known = [point.agreement for point in restored if point.agreement is not None]
    error = _Curve("error of the outputs, %", [100 * point.error for point in restored])
    if len(known) < len(restored):
        return [error]
    return [_Curve("other top-1 answers than fp32, %", [100 * (1 - agreement) for agreement in known]), error]


def _cost(restored: Sequence[Restored]) -> _Curve:
    known = [point.latency_us for point in restored if point.latency_us is not None]
    if len(known) < len(restored):
        return _Curve("multiply-accumulates in fp32, %", [100 * point.fp32_share for point in restored])
    return _Curve("estimated latency, us a call", known)


def _ticks(restored: Sequence[Restored]) -> tuple[list[int], list[str]]:
    """Where the axis is labelled, and how: by the layers themselves, if there are not too many."""
    if len(restored) > LABELLED:
        places = list(range(0, len(restored), len(restored) // LABELLED + 1))
        return places, [str(place) for place in places]
    return [point.layers for point in restored], [
        f"{point.layers} {point.layer}" if point.layer else str(point.layers) for point in restored
    ]


def _write_html(title: str, restored: Sequence[Restored], path: Path) -> None:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure: Any = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    x, cost = [point.layers for point in restored], _cost(restored)
    for row, curve, colour in zip((1, 1, 2), _three(restored, cost), COLOURS, strict=True):
        if curve is not None:
            line = go.Scatter(x=x, y=curve.values, name=curve.name, mode="lines+markers", line={"color": colour})
            figure.add_trace(line, row=row, col=1)
    places, names = _ticks(restored)
    figure.update_xaxes(title=X_TITLE, tickvals=places, ticktext=names, row=2, col=1)
    figure.update_yaxes(title="against fp32, %", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title=cost.name, rangemode="tozero", row=2, col=1)
    figure.update_layout(
        title={"text": f"<b>{title}</b>", "x": 0.01, "xanchor": "left"},
        template="plotly_white",
        height=HEIGHT_PX,
        legend={"orientation": "h", "y": 1.08},
    )
    figure.write_html(path, div_id="restored")


def _three(restored: Sequence[Restored], cost: _Curve) -> tuple[_Curve | None, _Curve, _Curve]:
    *agreement, error = _answers(restored)
    return (agreement[0] if agreement else None), error, cost


def _write_png(title: str, restored: Sequence[Restored], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

    figure = Figure(figsize=(WIDTH_PX / 100, HEIGHT_PX / 100), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    x, cost = [point.layers for point in restored], _cost(restored)
    for axes, curve, colour in zip((above, above, below), _three(restored, cost), COLOURS, strict=True):
        if curve is not None:
            axes.plot(x, curve.values, color=colour, marker="o", markersize=4, linewidth=1.4, label=curve.name)
    places, names = _ticks(restored)
    below.xaxis.set_major_locator(FixedLocator(places))
    below.set_xticklabels(names, rotation=90 if LEVEL < len(restored) <= LABELLED else 0, fontsize=8)
    below.set(xlabel=X_TITLE, ylabel=cost.name)
    above.set(ylabel="against fp32, %")
    above.legend(frameon=False, fontsize=8)
    for axes in (above, below):
        axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1], 1e-9))
        axes.grid(visible=True, color="#E6E6E6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold")
    figure.savefig(path, dpi=150)
