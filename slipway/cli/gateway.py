"""``slipway gateway``: one address for champion and challenger, whose traffic a rollout shares."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from slipway.cli import ending
from slipway.cli.console import print_json, tell
from slipway.cli.release import JsonOption
from slipway.errors import BadInputError
from slipway.rollout.gateway.data_plane import DataPlane, Plan
from slipway.rollout.gateway.running import Gateway, gateway_folder
from slipway.rollout.splitters.envoy import EnvoySplitter
from slipway.stores.registry import CHALLENGER, Registry
from slipway.wiring import Workshop, workshop

PORT = 8080


def add_commands(app: typer.Typer) -> None:
    """Add ``gateway``."""
    app.command()(gateway)


def gateway(
    name: Annotated[str, typer.Argument(help="The source model, such as digits-resnet.")],
    target: Annotated[str, typer.Option(help="The target whose engines are served.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = PORT,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    shadow: Annotated[bool, typer.Option(help="Mirror what the champion is asked to the challenger too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Serve champion and challenger behind one address, and share the traffic as a rollout says.

    The challenger is served while a version bears that alias. A server or Envoy that dies is started again, and a
    challenger that is down costs no request. SIGTERM, or Ctrl-C, lets it answer what it has taken, and ends it with 0.
    """
    shop = workshop()
    registered = f"{name}.{target}"
    plan = Plan(registered, gateway_folder(shop.state, registered), host, port, shadow)
    ending.prepare()  # however this process ends, nothing that it started is left behind
    plane = DataPlane(plan, serve_command(name, target), lambda: _has_challenger(shop.registry, registered), tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: plane.stop())
    with plane:
        found = plane.gateway
        if found is not None:
            if as_json:
                print_json(found.model_dump(mode="json"))
                sys.stdout.flush()  # whoever waits for it cannot wait for the end
            tell(f"{registered} at {found.address}")
            plane.run(_dead_man(shop, found))


def _dead_man(shop: Workshop, found: Gateway) -> Callable[[], None]:
    """What returns the traffic to the champion when the rollout's controller falls silent."""
    # Imported here: the database's library is more than the other commands want to wait for.
    from slipway.rollout.dead_man import return_if_silent

    store, splitter, silent = shop.rollouts, EnvoySplitter(found), False

    def look() -> None:
        nonlocal silent
        before, silent = silent, return_if_silent(store, splitter, found.name, time.time())
        if silent and not before:
            tell("nothing is heard of the rollout's controller: all traffic goes to the champion")

    return look


def serve_command(name: str, target: str, *options: str) -> Callable[[str, int, Path], list[str]]:
    """What gives the command that serves an alias on a port, with its log, and with further ``options``."""

    def command(alias: str, port: int, log: Path) -> list[str]:
        program = [sys.executable, "-m", "slipway.cli", "serve", name]
        place = ["--target", target, "--alias", alias, "--port", str(port), "--access-log", str(log)]
        return [*program, *place, *options]

    return command


def _has_challenger(registry: Registry, registered: str) -> bool:
    try:
        return CHALLENGER in registry.aliases(registered)
    except BadInputError:  # nothing is registered by that name
        return False
