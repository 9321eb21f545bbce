"""A rollout as it was decided: every gate's bounds over the requests, beside what promotes or rolls back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slipway.errors import BadInputError
from slipway.records import Reading, Rollout

COLOURS = {"champion": "#0072B2", "challenger": "#D55E00", "lines": "#000000"}
WIDTH_PX, PANEL_PX, EDGES_PX = 1100, 260, 150
FONT_POINTS = 9


class Point(NamedTuple):
    """One gate at one look, in the unit of its panel; None is no bound yet.

    The challenger passes where its ``upper`` is at most ``promotes``, and fails where its ``lower`` is above
    ``rolls_back``. ``near`` is what the panel has to show.
    """

    requests: int
    lower: float | None
    upper: float | None
    promotes: float | None
    rolls_back: float | None
    near: float
    champion: tuple[float | None, float | None] | None = None


class Panel(NamedTuple):
    """A gate over the requests."""

    title: str
    points: list[Point]

    @property
    def requests(self) -> list[int]:
        """The challenger's requests at each look."""
        return [point.requests for point in self.points]

    def range(self) -> tuple[float, float]:
        """What is shown: everything near, and of bounds that are still wide as much as keeps that readable."""
        near = [point.near for point in self.points]
        lines = [line for point in self.points for line in (point.promotes, point.rolls_back) if line is not None]
        high = 1.6 * max(*near, *(min(line, 2 * max(near)) for line in lines), 1e-6)
        lows = [point.lower for point in self.points if point.lower is not None]
        return max(min(0.0, *lows, 0.0), -high / 2), high

    def drawn(self, value: Callable[[Point], float | None], unknown: float) -> list[float]:
        """A line of the panel, cut to its range; ``unknown`` stands where there is no bound."""
        low, high = self.range()
        values = (value(point) for point in self.points)
        return [min(max(unknown if one is None else one, low), high) for one in values]


def panels(history: Sequence[Rollout]) -> list[Panel]:
    """The gates that were read, each with one point per saved state that holds readings."""
    kinds: dict[str, tuple[str, Callable[[int, dict[str, float | None]], Point]]] = {
        "latency_p95": ("p95 latency, ms", _latency),
        "accuracy": ("loss of accuracy, share of requests", _accuracy),
        "errors": ("failed requests since the step began, share", _errors),
    }
    found = []
    for gate, (title, point) in kinds.items():
        points: dict[int, Point] = {}
        for rollout in history:
            reading = next((one for one in rollout.readings if one.gate == gate), None)
            if reading is not None and (requests := _requests(rollout)) and "margin" in reading.figures:
                points[requests] = point(requests, reading.figures)
        if points:
            found.append(Panel(title, [points[requests] for requests in sorted(points)]))
    return found


def steps(history: Sequence[Rollout]) -> list[tuple[int, str]]:
    """Where each step began, in requests of the challenger, and its share of the traffic."""
    shares = {rollout.step: f"{rollout.share_percent:g}%" for rollout in history if not rollout.phase.ended}
    begun = history[-1].steps_begun if history else ()
    starts = [(start.challenger_answers + start.challenger_errors, number) for number, start in enumerate(begun)]
    return [(requests, shares[number]) for requests, number in starts if number in shares]


def write_rollout_plot(history: Sequence[Rollout], path: Path) -> None:
    """Write the plot of a rollout's saved states to ``path``, as its suffix says: ``.html`` or ``.png``.

    Raises:
        BadInputError: another suffix, nothing to draw, or a place that cannot be written to.
    """
    writers = {".html": _write_html, ".png": _write_png}
    if path.suffix not in writers:
        raise BadInputError(f"cannot plot to {path}: give a file that ends in {' or '.join(writers)}")
    drawn = panels(history)
    if not drawn:
        raise BadInputError(f"cannot plot to {path}: nothing was seen of the challenger")
    try:
        writers[path.suffix](_title(history[-1]), drawn, steps(history), path)
    except OSError as error:
        raise BadInputError(
            f"cannot plot to {path}: {error.strerror}; give a file in a directory that exists"
        ) from error


def _title(rollout: Rollout) -> str:
    challenger, champion = rollout.challenger.version, rollout.champion.version
    return f"{rollout.name}: version {challenger} beside {champion}, {rollout.phase}"


def _requests(rollout: Rollout) -> int:
    """All of the challenger's so far: those before the step, and those that its errors are counted over."""
    errors: Reading | None = next((one for one in rollout.readings if one.gate == "errors"), None)
    since = 0 if errors is None else int(errors.figures.get("challenger_n") or 0)
    start = rollout.steps_begun[-1] if rollout.steps_begun else None
    return since + (start.challenger_answers + start.challenger_errors if start else 0)


def _latency(requests: int, figures: dict[str, float | None]) -> Point:
    margin, champion = 1 + (figures["margin"] or 0.0), (figures["champion_lower_ms"], figures["champion_upper_ms"])
    promotes, rolls_back = (None if bound is None else margin * bound for bound in champion)
    near = max(figures["champion_ms"] or 0.0, figures["challenger_ms"] or 0.0)
    bounds = figures["challenger_lower_ms"], figures["challenger_upper_ms"]
    return Point(requests, *bounds, promotes, rolls_back, near, champion)


def _accuracy(requests: int, figures: dict[str, float | None]) -> Point:
    margin, lower, upper = figures["margin"], figures["loss_lower"], figures["loss_upper"]
    near = max(2 * (margin or 0.0), lower or 0.0)
    return Point(requests, lower, upper, margin, margin, near)


def _errors(requests: int, figures: dict[str, float | None]) -> Point:
    margin, champion = figures["margin"] or 0.0, (figures["champion_lower"], figures["champion_upper"])
    promotes, rolls_back = (None if bound is None else margin + bound for bound in champion)
    near = max(2 * margin, figures["challenger_lower"] or 0.0)
    return Point(
        requests, figures["challenger_lower"], figures["challenger_upper"], promotes, rolls_back, near, champion
    )


def _bands(panel: Panel) -> list[tuple[str, list[float], list[float]]]:
    """Name, lower and upper line of what each arm may be."""
    low, high = panel.range()
    own = "challenger", panel.drawn(lambda point: point.lower, low), panel.drawn(lambda point: point.upper, high)
    if panel.points[0].champion is None:
        return [own]
    lower = panel.drawn(lambda point: point.champion[0] if point.champion else None, low)
    upper = panel.drawn(lambda point: point.champion[1] if point.champion else None, high)
    return [("champion", lower, upper), own]


def _lines(panel: Panel) -> list[tuple[str, str, list[float]]]:
    """Name, dash and values of what the challenger's bounds are held against."""
    low, high = panel.range()
    return [
        ("promotes below", "dash", panel.drawn(lambda point: point.promotes, low)),
        ("rolls back above", "dot", panel.drawn(lambda point: point.rolls_back, high)),
    ]


def _write_html(title: str, drawn: Sequence[Panel], begun: Sequence[tuple[int, str]], path: Path) -> None:
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(drawn), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for row, panel in enumerate(drawn, start=1):
        place: dict[str, Any] = {"row": row, "col": 1}
        for name, lower, upper in _bands(panel):
            looks: dict[str, Any] = {"mode": "lines", "line": {"color": COLOURS[name], "width": 1}, "legendgroup": name}
            figure.add_scatter(x=panel.requests, y=lower, showlegend=False, name=name, **looks, **place)
            filled = {"fill": "tonexty", "fillcolor": f"rgba{_rgba(COLOURS[name])}"}
            figure.add_scatter(x=panel.requests, y=upper, name=name, showlegend=row == 1, **filled, **looks, **place)
        for name, dash, values in _lines(panel):
            line = {"color": COLOURS["lines"], "width": 1, "dash": dash}
            group = {"legendgroup": name, "name": name, "showlegend": row == 1}
            figure.add_scatter(x=panel.requests, y=values, mode="lines", line=line, **group, **place)
        for requests, share in begun:
            note = share if row == 1 else None
            figure.add_vline(requests, line_width=0.5, line_color="#999999", annotation_text=note, **place)
        figure.update_yaxes(title=panel.title, range=panel.range(), **place)
    figure.update_xaxes(title="requests of the challenger", row=len(drawn), col=1)
    figure.update_layout(
        title=title,
        template="plotly_white",
        height=EDGES_PX + PANEL_PX * len(drawn),
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    figure.write_html(path, div_id="rollout")


def _rgba(colour: str) -> tuple[int, int, int, float]:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue, 0.2


def _write_png(title: str, drawn: Sequence[Panel], begun: Sequence[tuple[int, str]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_PX / 100, (EDGES_PX + PANEL_PX * len(drawn)) / 100), layout="constrained")
    every: Any = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(every, drawn, strict=True):
        for name, lower, upper in _bands(panel):
            axes.fill_between(panel.requests, lower, upper, color=COLOURS[name], alpha=0.2, linewidth=0, label=name)
            for line in (lower, upper):
                axes.plot(panel.requests, line, color=COLOURS[name], linewidth=1)
        for name, dash, values in _lines(panel):
            style = {"dash": "--", "dot": ":"}[dash]
            axes.plot(panel.requests, values, color=COLOURS["lines"], linestyle=style, linewidth=1, label=name)
        for requests, _ in begun:
            axes.axvline(requests, color="#999999", linewidth=0.5)
        axes.set_ylim(panel.range())
        axes.set_ylabel(panel.title, fontsize=FONT_POINTS)
        axes.tick_params(labelsize=FONT_POINTS)
        axes.spines[["top", "right"]].set_visible(False)
    for requests, share in begun:
        every[0].annotate(
            share, (requests, 1), xycoords=("data", "axes fraction"), fontsize=FONT_POINTS, color="#666666"
        )
    every[-1].set_xlabel("requests of the challenger", fontsize=FONT_POINTS)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    handles, names = every[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=FONT_POINTS)
    figure.savefig(path, dpi=150)
