"""A canary as a flow: for a deployment that starts one by itself, on the host where the gateway runs."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from prefect import flow, get_run_logger

from flows.place import project_of_the_worker
from flows.release import described
from slipway.canary import run_canary
from slipway.config import Params
from slipway.errors import BadInputError
from slipway.records import Rollout
from slipway.stores.registry import parse_model_uri
from slipway.wiring import project_params, workshop


@flow(name="rollout", flow_run_name="rollout of {name} on {target}")
def rollout(name: str, target: str, version: str | None = None, params: Params | Path | None = None) -> Rollout:
    """Bring the challenger of ``name`` on ``target`` to its end beside the champion; run again, it resumes.

    It is described by ``params``, a file of the project; by default the one that describes releases of ``name``.

    Raises:
        SlipwayError: it could not start: nothing to compare, no gateway, or another controller at work.
    """
    logger = get_run_logger()
    with chdir(project_of_the_worker()):
        return run_canary(
            workshop(),
            params if isinstance(params, Params) else _described(Path.cwd(), name, params),
            f"{name}.{target}",
            version,
            lambda now: logger.info(f"{now.phase}, {now.share_percent:g}%: {'; '.join(now.reasons)}"),
            logger.warning,
        )


def _described(root: Path, name: str, file: Path | None) -> Params:
    files = project_params(root)
    if file is None and name not in files:
        raise BadInputError(f"no params file in {root} describes {name!r}; known: {', '.join(files)}")
    found = described(root, file or files[name].relative_to(root), None)
    if (model := parse_model_uri(found.model)[0]) != name:
        raise BadInputError(f"{file} describes releases of {model}, and {name} was asked for; leave params out")
    return found
