"""``slipway receiver``: what MLflow's webhook tells becomes a release."""

from __future__ import annotations

import math
import os
from typing import Annotated

import typer

from slipway.cli.console import print_json
from slipway.cli.release import JsonOption
from slipway.errors import BadInputError
from slipway.triggers.signature import WINDOW_SECONDS, secret_from
from slipway.wiring import load_flow

PORT = 8123


def add_commands(app: typer.Typer) -> None:
    """Add ``receiver``."""
    app.command()(receiver)


def receiver(
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = PORT,
    window_s: Annotated[
        float, typer.Option(min=1, help="How old a delivery may be, or ahead of time.")
    ] = WINDOW_SECONDS,
    as_json: JsonOption = False,
) -> None:
    """Receive MLflow's webhook, and ask Prefect for the releases that follow from it.

    MLflow posts to /mlflow; /health tells how it stands, /metrics is for Prometheus. It works in the project's
    directory, whose params files say which models are released, and needs SLIPWAY_WEBHOOK_SECRET, PREFECT_API_URL and,
    where Prefect's server asks for it, PREFECT_API_AUTH_STRING. What it has taken is kept under .slipway until Prefect
    has it. SIGTERM, or Ctrl-C, ends it with 0.
    """
    secret_from(os.environ)  # before Prefect is imported, which takes seconds
    if not math.isfinite(window_s):
        raise BadInputError(f"--window-s is {window_s}; give a finite number")

    def opened(url: str) -> None:
        if as_json:
            print_json({"url": url})

    load_flow("receiver")(host, port, window_s, opened)
