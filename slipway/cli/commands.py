"""The ``slipway`` program: its commands."""

from __future__ import annotations

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
    program,
    prune,
    publish,
    receiver,
    release,
    serve,
    status,
    step,
)

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


def run() -> None:
    """Run the command line."""
    program.run(app)
