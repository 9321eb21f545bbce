"""A canary as a flow: for a deployment that starts one by itself, on the host where the gateway runs."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from prefect import State, flow, get_run_logger, runtime
from prefect.states import Completed

from flows.place import project_of_the_worker
from flows.release import described
from slipway.canary import NothingToCompareError, run_canary
from slipway.config import Params
from slipway.errors import BadInputError
from slipway.records import Rollout, Verdict
from slipway.stores.registry import parse_model_uri
from slipway.wiring import project_params, workshop


@flow(name="rollout", flow_run_name="rollout of {name} on {target}")
def rollout(
    name: str, target: str, version: str | None = None, params: Params | Path | None = None
) -> Rollout | State[None]:
    """Bring the challenger of ``name`` on ``target`` to its end beside the champion; run again, it resumes.

    It is described by ``params``, a file of the project; by default the one that describes releases of ``name``.
    Where there is nothing to compare it is Completed under the name SKIPPED: the first version of an engine, and one
    that was approved meanwhile, are announced as challengers too.

    Raises:
        SlipwayError: it could not start: no gateway, or another controller at work.
    """
    if isinstance(params, Params) and runtime.deployment.id is not None:
        raise BadInputError(
            f"cannot roll out {name} on {target} by gates that whoever starts the run has written; name a file of the "
            "worker's project in params, or leave it out"
        )
    logger = get_run_logger()
    with chdir(project_of_the_worker()):
        try:
            return run_canary(
                workshop(),
                params if isinstance(params, Params) else _described(Path.cwd(), name, params),
                f"{name}.{target}",
                version,
                lambda now: logger.info(f"{now.phase}, {now.share_percent:g}%: {'; '.join(now.reasons)}"),
                logger.warning,
            )
        except NothingToCompareError as error:
            return Completed(name=Verdict.SKIPPED.value, message=str(error))


def _described(root: Path, name: str, file: Path | None) -> Params:
    files = project_params(root)
    if file is None and name not in files:
        raise BadInputError(f"no params file in {root} describes {name!r}; known: {', '.join(files)}")
    found = described(root, file or files[name].relative_to(root), None)
    if (model := parse_model_uri(found.model)[0]) != name:
        raise BadInputError(f"{file} describes releases of {model}, and {name} was asked for; leave params out")
    return found
