"""``slipway labels``: what was right for the requests of a rollout, told afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipway.cli.console import print_json, tell
from slipway.cli.release import JsonOption
from slipway.errors import BadInputError, nearest
from slipway.wiring import workshop


def add_commands(app: typer.Typer) -> None:
    """Add ``labels``."""
    app.command()(labels)


def labels(
    file: Annotated[Path, typer.Argument(help="CSV with the columns request_id,label, or JSON lines of the two.")],
    name: Annotated[str, typer.Option(help="The source model, such as digits-resnet.")],
    target: Annotated[str, typer.Option(help="The target whose rollout the requests are of.")],
    as_json: JsonOption = False,
) -> None:
    """Tell a rollout which classes were right: by the ids of mirrored requests, all lines of the file or none.

    A label is a class from 0, or a list of them for a request of several examples. Known labels do no harm; those that
    come later than canary.label_minutes after the request do not count any more.
    """
    # Imported here: the database's library is more than the other commands want to wait for.
    from slipway.rollout.observing.labels import read_labels

    store, engine = workshop().rollouts, f"{name}.{target}"
    told = read_labels(file)
    rollout = store.latest(engine)
    if rollout is None:
        known = [other.name for other in store.all_latest()]
        raise BadInputError(
            f"{engine} has no rollout to tell labels to{nearest(engine, known)}; rollouts: {', '.join(known) or 'none'}"
        )
    new = store.add_labels(engine, told)
    if as_json:
        print_json({"name": engine, "rollout": rollout.rollout_id, "labels": len(told), "new": new})
    ended = f"; its rollout has ended: {rollout.phase}" if rollout.phase.ended else ""
    tell(f"{engine}: {len(told):,} labels, {new:,} of them new{ended}")
