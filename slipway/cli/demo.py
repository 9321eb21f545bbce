"""``slipway demo``: an example model from nothing to a promoted engine."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli.console import print_json, tell
from slipway.cli.release import FreshOption, JsonOption, run_release
from slipway.config import load_params
from slipway.examples import EXAMPLES, example
from slipway.wiring import workshop


def add_commands(app: typer.Typer) -> None:
    """Add ``demo``."""
    app.command()(demo)


def demo(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(EXAMPLES)}.")] = "digits",
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Stop once data and model are there.")] = False,
    as_json: JsonOption = False,
    fresh: FreshOption = False,
) -> None:
    """Make the example's data, train or fetch its model, register it, and release it."""
    chosen, shop = example(name), workshop()
    version = chosen.prepare(shop.root, shop.registry, tell)
    if prepare_only:
        if as_json:
            print_json({"model": version.uri})
        return
    params = load_params(chosen.params)
    raise typer.Exit(run_release(params.model_copy(update={"model": version.uri}), [], as_json, fresh))
