"""``slipway status``: where the rollouts stand."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import Annotated

import typer

from slipway.cli.canary import rollout_json
from slipway.cli.console import out, print_json, print_table, tell
from slipway.cli.release import JsonOption
from slipway.config import CanaryParams
from slipway.errors import BadInputError, nearest
from slipway.records import Rollout
from slipway.wiring import workshop

HEADINGS = ("engine", "phase", "step", "share", "since", "champion", "challenger", "gates")


def add_commands(app: typer.Typer) -> None:
    """Add ``status``."""
    app.command()(status)


def status(
    name: Annotated[str | None, typer.Argument(help="Only this model, or this engine, NAME.TARGET.")] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Answer over HTTP, with JSON and /metrics, until ended.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The newest rollout of every engine: its phase, its share of the traffic, and what each gate says.

    Other systems steer by the verdict in the JSON: PASS, FAIL, INCONCLUSIVE or ERROR; null while it is under way, and
    while what is promoted can still be rolled back by what is seen. With --listen a web metric of Argo Rollouts asks
    for it at /NAME.TARGET.
    """
    if listen is not None:
        _answer(listen)
        return
    every = workshop().rollouts.all_latest()
    found = named(every, name)
    if name is not None and not found:
        known = [one.name for one in every]
        told = f"; there are: {', '.join(known)}" if known else "; `slipway canary` starts one"
        raise BadInputError(f"{name} has no rollout{nearest(name, known)}{told}")
    if as_json:
        print_json({"rollouts": [rollout_json(one) for one in found]})
        return
    if not found:
        tell("no rollout yet; `slipway canary` starts one")
        return
    print_table(HEADINGS, [_row(one) for one in found], "rollouts, the newest of each engine")
    for one in found:
        for reason in one.reasons:
            out.print(f"  {one.name}: {reason}", highlight=False, markup=False)


def named(rollouts: list[Rollout], name: str | None) -> list[Rollout]:
    """Those of a model, or of an engine ``NAME.TARGET``; all without a name."""
    return [one for one in rollouts if name is None or name in {one.name, one.name.rpartition(".")[0]}]


def _answer(listen: str) -> None:
    """Answer until SIGTERM or Ctrl-C."""
    from slipway.cli.status_server import StatusServer

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise BadInputError(f"--listen is HOST:PORT, such as 127.0.0.1:9109, found {listen!r}")
    store = workshop().rollouts
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with StatusServer(host, int(port), store.all_latest) as server:
        tell(f"the rollouts at {server.address}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _row(rollout: Rollout) -> tuple[str, ...]:
    steps = CanaryParams.model_validate_json(rollout.policy_json).steps
    return (
        rollout.name,
        rollout.phase,
        f"{rollout.step + 1} of {len(steps)}",
        f"{rollout.share_percent:g}%",
        datetime.fromtimestamp(rollout.phase_since_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        rollout.champion.version,
        rollout.challenger.version,
        ", ".join(f"{reading.gate} {reading.decision.verdict}" for reading in rollout.readings),
    )
