"""``slipway demo``: an example model from nothing to a promoted engine, and to a canary of the one next to it."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli.console import out, print_json, tell
from slipway.cli.demo_canary import in_a_line, show_canary
from slipway.cli.release import FreshOption, JsonOption, release_object, released, run_release, show_release
from slipway.config import Params, load_params
from slipway.examples import EXAMPLES, Example, example
from slipway.records import Verdict
from slipway.wiring import workshop


def add_commands(app: typer.Typer) -> None:
    """Add ``demo``."""
    app.command()(demo)


def demo(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(EXAMPLES)}.")] = "digits",
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Stop once data and model are there.")] = False,
    as_json: JsonOption = False,
    fresh: FreshOption = False,
    canary: Annotated[
        bool, typer.Option("--canary", help="Then show a canary: the runner-up under simulated clients, in a minute.")
    ] = False,
) -> None:
    """Make the example's data, train or fetch its model, register it, and release it.

    With --canary the release's runner-up is rolled out beside its champion; whatever that decides, it ends as the
    release does, but for 5 where the rollout broke.
    """
    chosen, shop = example(name), workshop()
    version = chosen.prepare(shop.root, shop.registry, tell)
    if prepare_only:
        if as_json:
            print_json({"model": version.uri})
        return
    params = load_params(chosen.params).model_copy(update={"model": version.uri})
    if canary:
        raise typer.Exit(_with_canary(params, chosen, as_json, fresh))
    raise typer.Exit(run_release(params, [], as_json, fresh))


def _with_canary(params: Params, chosen: Example, as_json: bool, fresh: bool) -> int:
    result, seconds = released(params, [], fresh)
    if not as_json:
        show_release(result, seconds)
    told = show_canary(workshop(), params, result, chosen)
    if as_json:
        print_json(release_object(result, seconds) | {"canary": told})
    else:
        out.print(in_a_line(told), highlight=False)
    return Verdict.ERROR.exit_code if told.get("verdict") is Verdict.ERROR else result.verdict.exit_code
