"""What the commands print: results on stdout, everything told on the way on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

STYLES = {"PASS": "green", "FAIL": "red", "ERROR": "bold red", "INCONCLUSIVE": "yellow", "SKIPPED": "dim"}
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
        table.add_row(*(styled(cell) for cell in row), style="bold" if row[0] == "►" else "")
    # Piped into a file the table keeps its full width.
    Console(width=None if out.is_terminal else PIPED_WIDTH).print(table)


def styled(verdict: str) -> Text:
    """A verdict in its colour; any other word as it is."""
    return Text(verdict, style=STYLES.get(verdict, ""))
