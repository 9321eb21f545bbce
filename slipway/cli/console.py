"""What the commands print: results on stdout, everything told on the way on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

STYLES = {"PASS": "green", "FAIL": "red", "ERROR": "bold red", "INCONCLUSIVE": "yellow", "SKIPPED": "dim"}
PIPED_WIDTH, UNBOUNDED = 200, 10_000

out = Console(soft_wrap=True, markup=False)  # a reason may hold brackets, as in: pip install 'slipway[openvino]'
err = Console(stderr=True, soft_wrap=True, highlight=False)


class Unread:
    """A stream whose reader may leave early, as ``head`` does: what nobody reads is dropped, and nothing fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def complain(message: str) -> None:
    """One error message on stderr."""
    err.print(f"[bold red]slipway:[/] {escape(message)}")


def tell(message: str) -> None:
    """One line of progress on stderr."""
    err.print(escape(message))


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


class Spare(NamedTuple):
    """What a narrow terminal can do without: what ``shorten`` cuts from a column's cells, or the whole column."""

    heading: str
    shorten: Callable[[str], str] | None = None


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, spare: Iterable[Spare] = ()
) -> None:
    """A table on stdout; verdicts are coloured, and a row that begins with the mark of choice is bold.

    Where it is too wide it does without what is ``spare``, one after the other, until it fits; then nothing is wrapped,
    whatever is left. Nothing is ever cut off.
    """
    # Piped into a file the table keeps its full width.
    console = Console(width=out.width if out.is_terminal else PIPED_WIDTH)
    columns = dict(zip(headings, zip(*rows, strict=True), strict=True))
    table, spares = _table(columns, title), list(spare)
    for heading, shorten in spares:
        if _width(console, table) <= console.width:
            break
        if shorten is None:
            del columns[heading]
        else:
            columns[heading] = tuple(map(shorten, columns[heading]))
        table = _table(columns, title, narrow=True)
    if spares:
        console.width = max(console.width, _width(console, table))
    console.print(table)


def _table(columns: Mapping[str, Sequence[str]], title: str | None, narrow: bool = False) -> Table:
    """Without a frame where it has to be ``narrow``."""
    # Folded where it has to be: of what is cut off nobody could make use.
    headings = [Column(heading, overflow="fold") for heading in columns]
    table = Table(*headings, title=title and escape(title), title_justify="left", title_style="bold")
    if narrow:
        table.box, table.show_edge, table.padding, table.pad_edge = box.SIMPLE_HEAD, False, (0, 1, 0, 0), False
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(styled(cell) for cell in row), style="bold" if row[0] == "►" else "")
    return table


def _width(console: Console, table: Table) -> int:
    """What the table takes with nothing wrapped."""
    return Measurement.get(console, console.options.update(max_width=UNBOUNDED), table).maximum


def styled(verdict: str) -> Text:
    """A verdict in its colour; any other word as it is."""
    return Text(verdict, style=STYLES.get(verdict, ""))
