"""Draws the progress that steps and flows log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from slipway.cli.console import err, styled
from slipway.steps.progress import LOGGER, Event

BAR_WIDTH = 24


class _Lines(logging.Handler):
    """On a terminal one live line per candidate, elsewhere one line per finished step."""

    def __init__(self, live: Live | None) -> None:
        super().__init__()
        self._live = live
        self._lines: dict[str, Event] = {}
        self._started: dict[tuple[str, str], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        event: Event = record.__dict__["event"]
        self._lines[event.line] = event
        self._started.setdefault((event.line, event.step), time.monotonic())
        if self._live:
            self._live.update(self._table())
        elif event.status != "running":
            err.print(Text.assemble(f"{event.line:<24} {event.step:<10} ", styled(event.status), f" {event.detail}"))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for event in self._lines.values():
            table.add_row(event.line, event.step, styled(event.status), self._detail(event))
        return table

    def _detail(self, event: Event) -> RenderableType:
        if event.share is None:
            return Text(event.detail, style="dim", overflow="ellipsis", no_wrap=True)
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=event.share, width=BAR_WIDTH)
        row.add_row(bar, f"{event.share:4.0%}", Text(self._left(event.line, event.step, event.share), style="dim"))
        return row

    def _left(self, line: str, step: str, share: float) -> str:
        spent = time.monotonic() - self._started[line, step]
        return f"{spent * (1 - share) / share:.0f} s left" if share > 0 else ""


@contextmanager
def progress() -> Iterator[None]:
    """Show the progress that is logged while the block runs."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    live = Live(console=err) if err.is_terminal else None
    handler = _Lines(live)
    LOGGER.addHandler(handler)
    try:
        if live:
            with live:
                yield
        else:
            yield
    finally:
        LOGGER.removeHandler(handler)
