"""`python -m infra.setup`: what a team's servers need before the first release; run again, it changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from infra.provision.environment import adopted, stack_settings
from infra.provision.things import Change, Side, Told, exit_code, provided
from slipway.cli import program
from slipway.cli.console import complain, print_json, tell

HELP = """Make what a team's servers need: Prefect's work pools, deployments and automations; MLflow's users, registered
models, permissions and webhook; the S3 bucket. What is there already is left alone, or brought up to date; what people
paused, disabled or limited stays so. What is not configured is skipped, naming the variable that is missing.

The servers: PREFECT_API_URL, with PREFECT_API_AUTH_STRING; MLFLOW_TRACKING_URI, with MLFLOW_ADMIN_USERNAME and
MLFLOW_ADMIN_PASSWORD, and the account of releases MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD;
SLIPWAY_WEBHOOK_URL and SLIPWAY_WEBHOOK_SECRET; AWS_ENDPOINT_URL and SLIPWAY_BUCKET. Unset, they are those of
`python -m infra.stack up` here.
"""
EPILOG = "Exit codes: 0 done; 2 bad input; 3 a server does not allow it; 5 a server failed, the others were tried."
WIDTH = max(len(change) for change in Change)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=HELP, epilog=EPILOG)
def setup(
    approver: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A person who may approve engines: an MLflow user with EDIT on them. May be given several times. The "
            "first password is SLIPWAY_PASSWORD_NAME, else one that is made and told on stderr.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """See to every server."""
    root, told = Path.cwd(), []
    os.environ |= adopted(stack_settings(root), os.environ)
    for side in _sides(root, approver or []):
        for one in provided(side):
            told.append(one)
            _show(one, quiet=as_json)
    if as_json:
        print_json({"things": [one.model_dump(mode="json") for one in told], "exit_code": exit_code(told)})
    raise typer.Exit(exit_code(told))


def _show(one: Told, quiet: bool) -> None:
    if one.change is Change.ERROR:
        complain(f"{one.name}: {one.why}")
    if not quiet:
        why = f": {one.why}" if one.change is Change.SKIPPED else ""
        print(f"{one.change:{WIDTH}}  {one.name}{why}", flush=True)


def _sides(root: Path, approvers: Sequence[str]) -> Iterator[Side]:
    # Only now: Prefect reads its settings when it is imported.
    from infra.provision import buckets, mlflow_side, prefect_side
    from slipway.config import load_params
    from slipway.wiring import project_params

    released = [
        mlflow_side.Released(model, target, described.work_pool)
        for model, file in project_params(root).items()
        for target, described in load_params(file).targets.items()
    ]
    pools = [one.pool for one in released if one.pool]
    yield Side("Prefect", partial(prefect_side.prefect_things, root, pools), prefect_side.in_our_words)
    mlflow = partial(mlflow_side.mlflow_things, os.environ, released, approvers, tell)
    yield Side("MLflow", mlflow)
    yield Side("S3", partial(buckets.bucket_things, os.environ))


if __name__ == "__main__":
    program.run(app)
