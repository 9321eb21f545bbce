"""The ``slipway`` program: its commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO, cast

import typer

from slipway import __version__
from slipway.cli import (
    canary,
    demo,
    engines,
    gateway,
    host,
    labels,
    link,
    prune,
    publish,
    receiver,
    release,
    serve,
    status,
    step,
)
from slipway.cli.console import Unread, complain, print_json
from slipway.errors import SlipwayError
from slipway.wiring import STATE_DIRECTORY

UNFORESEEN_EXIT_CODE = 5

app = typer.Typer(
    name="slipway",
    help="From a registered PyTorch model version to the fastest engine that provably keeps its accuracy.",
    epilog="Exit codes: 0 done and PASS; 2 bad input; 3 FAIL; 4 INCONCLUSIVE; 5 ERROR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for room in (
    demo,
    release,
    host,
    engines,
    serve,
    gateway,
    canary,
    status,
    labels,
    step,
    publish,
    link,
    prune,
    receiver,
):
    room.add_commands(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"slipway {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line; an error ends as one message on stderr, one JSON object with --json, and its exit code."""
    with redirect_stdout(cast("TextIO", Unread(sys.stdout))):
        try:
            _run()
        finally:
            sys.stdout.flush()


def _run() -> None:
    try:
        app()
    except SlipwayError as error:
        _end(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last line of defence: nobody is shown a traceback
        _end(f"unforeseen {type(error).__name__}: {error}; {_kept(traceback.format_exc())}", UNFORESEEN_EXIT_CODE)


def _kept(trace: str) -> str:
    """Keep the traceback for a report, and tell where; it may be the disk itself that failed."""
    log = Path(STATE_DIRECTORY) / "last-error.txt"
    try:
        log.parent.mkdir(exist_ok=True)
        log.write_text(trace, encoding="utf-8")
    except OSError as error:
        return f"please report it; its traceback could not be kept in {log}: {error.strerror}"
    return f"please report it with {log}"


def _end(message: str, code: int) -> None:
    complain(message)
    if "--json" in sys.argv:
        print_json({"error": message, "exit_code": code})
    sys.exit(code)
