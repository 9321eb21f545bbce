"""What the commands print: results on stdout, everything told on the way on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

STYLES = {"PASS": "green", "FAIL": "red", "ERROR": "bold red", "INCONCLUSIVE": "yellow", "SKIPPED": "dim"}
PROGRESS_LOGGER = "slipway.progress"
PIPED_WIDTH = 200

out = Console(soft_wrap=True, markup=False)  # a reason may hold brackets, as in: pip install 'slipway[openvino]'
err = Console(stderr=True, soft_wrap=True, highlight=False)


def complain(message: str) -> None:
    """One error message on stderr."""
    err.print(f"[bold red]slipway:[/] {escape(message)}")


def tell(message: str) -> None:
    """One line of progress on stderr."""
    err.print(escape(message))


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout; verdicts are coloured, and a row that begins with the mark of choice is bold."""
    table = Table(*headings, title=title and escape(title), title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row), style="bold" if row[0] == "►" else "")
    # Piped into a file the table keeps its full width.
    Console(width=None if out.is_terminal else PIPED_WIDTH).print(table)


class _ProgressLines(logging.Handler):
    """Draws progress events: on a terminal one live line per candidate, elsewhere one line per finished step."""

    def __init__(self, live: Live | None) -> None:
        super().__init__()
        self._live = live
        self._lines: dict[str, tuple[str, str, str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        line, step, status, detail = record.__dict__["event"]
        self._lines[line] = (step, status, detail)
        if self._live:
            self._live.update(self._table())
        elif status != "running":
            err.print(Text.assemble(f"{line:<24} {step:<10} ", _styled(status), f" {detail}"))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for line, (step, status, detail) in self._lines.items():
            table.add_row(line, step, _styled(status), Text(detail, style="dim", overflow="ellipsis", no_wrap=True))
        return table


def _styled(status: str) -> Text:
    return Text(status, style=STYLES.get(status, ""))


@contextmanager
def progress() -> Iterator[None]:
    """Show the progress that flows log while the block runs."""
    logger = logging.getLogger(PROGRESS_LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    live = Live(console=err, transient=False) if err.is_terminal else None
    handler = _ProgressLines(live)
    logger.addHandler(handler)
    try:
        if live:
            with live:
                yield
        else:
            yield
    finally:
        logger.removeHandler(handler)
