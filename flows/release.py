"""One release: a registered model version in, the best proven engine per target out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect import State, flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.states import Completed, Failed

from flows.elsewhere import out_of_reach, start_elsewhere
from flows.lanes import start_target, start_variants
from flows.place import project_of_the_worker
from flows.prefect_ui import heard, show_release, unharmed, with_logger
from flows.targets import RUNNER, conclude_target, follow, healed
from slipway.config import Params, load_params
from slipway.errors import BadInputError, SlipwayError
from slipway.records import ReleaseResult, Verdict
from slipway.reports.summary import verdicts
from slipway.steps.budget import Budget
from slipway.steps.inputs import input_data
from slipway.steps.judge import Context, release_of
from slipway.steps.progress import Event, tell
from slipway.stores.registry import ModelVersionRef, parse_model_uri
from slipway.wiring import Workshop, check_targets, code_revision, host_hardware, project_file, training_data, workshop
from tasks.data import check_data
from tasks.fetch import fetch
from tasks.inputs import summarize_inputs
from tasks.promote import promote
from tasks.register import register
from tasks.release_runs import FLOW, label_run
from tasks.report import report
from tasks.slots import WAIT_SECONDS, slot

DEFAULT_PARAMS = Path("params.yaml")
MESSAGE_CHARACTERS = 4000


@flow(name="release", flow_run_name="release {params.model}", task_runner=RUNNER)
def release(params: Params, targets: tuple[str, ...] = (), budget_seconds: float | None = None) -> ReleaseResult:
    """Take ``params.model`` to a promoted engine per target (all of them, unless some are named), or tell why not.

    Within ``budget_seconds`` the search is spent on the promising candidates; what was not measured is INCONCLUSIVE.
    Another release of this model that this project has under way is not waited for; one elsewhere in the team is.

    Raises:
        SlipwayError: the release could not start: bad input, tampered data, or a store that is down.
    """
    return _released(params, targets, budget_seconds, waits=False)


def _run_name() -> str:
    parameters = flow_run.parameters
    return f"release {parameters.get('model') or parameters.get('params')}"


@flow(name=FLOW, flow_run_name=_run_name, task_runner=RUNNER)
def release_version(
    model: str | None = None, params: Path = DEFAULT_PARAMS, fresh: bool = False, reason: str | None = None
) -> State[None]:
    """Release ``model`` (default: the one that ``params`` names) in the project of the worker that runs this.

    It waits for other releases of the same model. How it ended is the state's name: a gate's no is a finding, and so
    the run is Completed; it is Failed when nothing was learnt.
    """
    with chdir(project_of_the_worker()), temporary_settings(_settings(fresh)), heard():
        if reason:
            with_logger(lambda logger: logger.info(f"asked for because: {reason}"))
        try:
            result = _released(described(Path.cwd(), params, model), (), None, waits=True)
        except SlipwayError as error:
            return Failed(message=str(error))
    return ended(result)


def described(root: Path, file: Path, model: str | None) -> Params:
    """The parameters of a release of ``model`` as ``file`` of the project in ``root`` has them.

    Raises:
        BadInputError: the file lies elsewhere, is wrong, or names another registered model.
    """
    params = load_params(project_file(root, file))
    if model is None:
        return params
    asked, known = parse_model_uri(model)[0], parse_model_uri(params.model)[0]
    if asked != known:
        raise BadInputError(
            f"{file} describes releases of {known}, and {asked} was asked for; name its own file, or write "
            f"params/{asked}.yaml"
        )
    return params.model_copy(update={"model": model})


def ended(result: ReleaseResult) -> State[None]:
    """The state of a run that ended so: Failed where an infrastructure did, else Completed under the verdict's name."""
    verdict, told = result.verdict, "\n".join(verdicts(result))
    message = told if len(told) <= MESSAGE_CHARACTERS else f"{told[:MESSAGE_CHARACTERS]}..."
    return Failed(message=message) if verdict is Verdict.ERROR else Completed(name=verdict.value, message=message)


def _settings(fresh: bool) -> dict[Any, bool]:
    return {PREFECT_TASKS_REFRESH_CACHE: True} if fresh else {}


def _released(params: Params, targets: tuple[str, ...], budget_seconds: float | None, *, waits: bool) -> ReleaseResult:
    """The release, when no other one of its model is under way in the team, nor in this project."""
    params = check_targets(params, targets)
    shop = workshop()
    name = parse_model_uri(params.model)[0]
    lock = FileLock(shop.state / f"release-{name}.lock", timeout=0)
    if not waits:
        with _alone(lock, name, waits=False):  # told before it waits for those elsewhere
            pass
    with slot(f"release:{name}", partial(_wait, name)), _alone(lock, name, waits):
        # From here on: an alias may have moved while it waited, and its own time begins.
        version = shop.registry.resolve(params.model)
        budget = None if budget_seconds is None else Budget(start=time.time(), seconds=budget_seconds)
        return healed(lambda: _release(params, shop, version, budget))


@contextmanager
def _alone(lock: FileLock, name: str, waits: bool) -> Iterator[None]:
    """Hold the project's lock on releases of a model.

    Raises:
        BadInputError: another release has it, and is not waited for.
    """
    try:
        lock.acquire()
    except Timeout:
        if not waits:
            raise BadInputError(f"another release of {name} is running in this project; wait for it") from None
        _wait(name, f"{lock.lock_file} is taken")
        lock.acquire(timeout=WAIT_SECONDS, poll_interval=1)
    try:
        yield
    finally:
        lock.release()


def _wait(name: str, why: str) -> None:
    tell(Event("release", "start", "waiting", f"for its turn among the releases of {name}: {why}"))


def _release(params: Params, shop: Workshop, version: ModelVersionRef, budget: Budget | None) -> ReleaseResult:
    context = _prepare(params, shop, version)
    unharmed(label_run, context.data.md5)
    skipped = out_of_reach(params)
    supplies = start_variants(params, params.targets.keys() - skipped, shop.objects, context, budget)
    with start_elsewhere(params, shop, context, supplies, budget, skipped) as elsewhere:
        here = [name for name, target in params.targets.items() if target.work_pool is None]
        prepared = [start_target(params, name, shop.objects, context, supplies, budget) for name in here]
        follow(prepared, context)
        concluded = {lanes.target: conclude_target(params, shop, context, lanes, budget) for lanes in prepared}
        for name in params.targets.keys() - concluded:
            concluded[name] = elsewhere.conclude(params, context, name)
    outcomes = [concluded[name] for name in params.targets]
    done = release_of(context, params.accuracy.metric, [outcome for outcome, _ in outcomes])
    engines = tuple(artifact for _, artifacts in outcomes for artifact in artifacts)
    recorded = register(shop.registry, shop.objects, done, engines, tuple(report(shop.objects, done)))
    promotions = {
        target: promote(shop.registry, f"{version.name}.{target}", number, context.data.md5, params.approval)
        for target, number in recorded.versions.items()
    }
    result = ReleaseResult(release=done, recorded=recorded, promotions=promotions)
    show_release(result, shop)
    return result


def _prepare(params: Params, shop: Workshop, version: ModelVersionRef) -> Context:
    source = fetch(shop.registry, shop.objects, version, params.trust_pickle)
    data = check_data(params.data.test, params.data.calibration, source.signature, training_data(params))
    return Context(
        model=source,
        data=data.test,
        calibration=data.calibration,
        training=data.training,
        code_revision=code_revision(shop.root),
        hardware=host_hardware(),
        inputs=summarize_inputs(shop.objects, source.signature, input_data(data)),
    )
