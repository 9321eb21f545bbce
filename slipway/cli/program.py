"""How a program of commands ends: the one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO, cast

import typer

from slipway.cli.console import Unread, complain, print_json
from slipway.errors import SlipwayError
from slipway.wiring import STATE_DIRECTORY

UNFORESEEN_EXIT_CODE = 5


def run(app: typer.Typer) -> None:
    """Run the command line; an error ends as one message on stderr, one JSON object with --json, and its exit code."""
    with redirect_stdout(cast("TextIO", Unread(sys.stdout))):
        try:
            _run(app)
        finally:
            sys.stdout.flush()


def _run(app: typer.Typer) -> None:
    try:
        app()
    except SlipwayError as error:
        _end(str(error), error.exit_code)
    except SystemExit as end:
        # Typer ends by itself on a wrong call, and has told people why, but no program.
        told = getattr(end.__context__, "format_message", None)
        if told is not None and isinstance(end.code, int):
            _print_error(told(), end.code)
        raise
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
    _print_error(message, code)
    sys.exit(code)


def _print_error(message: str, code: int) -> None:
    if "--json" in sys.argv:
        print_json({"error": message, "exit_code": code})
