"""``python -m infra.stack up|down|status``: a team's servers on this host."""

from __future__ import annotations

import os
import time
from pathlib import Path

import typer

from infra.stack.layout import PORTS
from infra.stack.stack import SERVICES, Stack
from slipway.cli import program
from slipway.cli.console import Spare, print_json, print_table, tell
from slipway.errors import BadInputError

app = typer.Typer(
    name="python -m infra.stack",
    help="PostgreSQL, Redis, SeaweedFS, MLflow, Prefect, the receiver and a worker, on 127.0.0.1, for this project.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Only = typer.Option(None, "--only", help=f"A service, with what it needs; repeatable: {', '.join(SERVICES)}.")
Port = typer.Option(None, "--port", help=f"NAME=NUMBER, kept for later commands; repeatable: {', '.join(PORTS)}.")
# What a narrow terminal shows of a log is its path from here.
NARROWER = (Spare("processes"), Spare("memory MB"), Spare("log", os.path.relpath))
Json = typer.Option(False, "--json", help="One JSON object on stdout.")


@app.command()
def up(
    only: list[str] | None = Only,
    port: list[str] | None = Port,
    as_json: bool = Json,
) -> None:
    """Start what does not run yet; the servers go on when this command has ended."""
    began = time.monotonic()
    stack = Stack(Path.cwd(), _ports(port or []), only=only)
    try:
        stack.up(tell)
    except KeyboardInterrupt:
        tell("interrupted; what was started goes on: `python -m infra.stack status` tells what, `down` ends it")
        raise
    seconds = time.monotonic() - began
    if as_json:
        print_json({"seconds": round(seconds, 1), "services": stack.status()})
        return
    tell(f"all answer after {seconds:.0f} s; `source {stack.environment_file}` leads to them")


@app.command()
def down(as_json: bool = Json) -> None:
    """End what `up` started; what the servers keep stays."""
    stack = Stack(Path.cwd())
    ran = [service.name for service in stack.services if service.running]
    stack.down(tell)
    if as_json:
        print_json({"ended": ran})
    elif not ran:
        tell(f"nothing ran in {Path.cwd()}; servers of another directory are ended there")


@app.command()
def status(as_json: bool = Json) -> None:
    """Which of them run and answer."""
    rows = Stack(Path.cwd()).status()
    if as_json:
        print_json({"services": rows})
        return
    shown = [[str("" if row[name] is None else row[name]) for name in rows[0]] for row in rows]
    print_table([name.replace("_mb", " MB") for name in rows[0]], shown, spare=NARROWER)


def _ports(words: list[str]) -> dict[str, int]:
    """The ports told as NAME=NUMBER.

    Raises:
        BadInputError: a word is not of that form.
    """
    found = {}
    for word in words:
        name, _, number = word.partition("=")
        if not number.isdecimal():
            raise BadInputError(f"--port {word} is not NAME=NUMBER, as in --port mlflow=5001")
        found[name] = int(number)
    return found


if __name__ == "__main__":
    program.run(app)
