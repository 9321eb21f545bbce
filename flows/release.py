"""One release: a registered model version in, the best proven engine per target out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from filelock import FileLock, Timeout
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from flows.lanes import Lanes, start
from slipway.config import Params
from slipway.errors import BadInputError
from slipway.records import Artifact, Built, ReleaseResult, TargetOutcome, Validated
from slipway.reports.summary import markdown
from slipway.steps.budget import Budget, is_worth_timing, time_limit
from slipway.steps.judge import Context, conclude, judge, release_of
from slipway.steps.progress import Event, tell
from slipway.stores.objects import DamagedObjectError, MissingObjectError
from slipway.stores.registry import ModelVersionRef
from slipway.wiring import Workshop, check_targets, code_revision, host_hardware, training_data, workshop
from tasks.benchmark import UnsettledError, benchmark, find_champion
from tasks.data import check_data
from tasks.fetch import fetch
from tasks.promote import promote
from tasks.register import register
from tasks.report import report

# Any: prefect's own type parameter is invariant.
RUNNER: Any = ThreadPoolTaskRunner(max_workers=len(os.sched_getaffinity(0)))


@flow(name="release", flow_run_name="release {params.model}", task_runner=RUNNER)
def release(params: Params, targets: tuple[str, ...] = (), budget_seconds: float | None = None) -> ReleaseResult:
    """Take ``params.model`` to a promoted engine per target (all of them, unless some are named), or tell why not.

    Within ``budget_seconds`` the search is spent on the promising candidates; what was not measured is INCONCLUSIVE.

    Raises:
        SlipwayError: the release could not start: bad input, tampered data, or a store that is down.
    """
    budget = None if budget_seconds is None else Budget(start=time.time(), seconds=budget_seconds)
    params = check_targets(params, targets)
    shop = workshop()
    version = shop.registry.resolve(params.model)
    try:
        with FileLock(shop.state / f"release-{version.name}.lock", timeout=0):
            return _healed_release(params, shop, version, budget)
    except Timeout:
        raise BadInputError(f"another release of {version.name} is running in this project; wait for it") from None


def _healed_release(params: Params, shop: Workshop, version: ModelVersionRef, budget: Budget | None) -> ReleaseResult:
    try:
        return _release(params, shop, version, budget)
    except (MissingObjectError, DamagedObjectError) as error:
        # The cache remembers results whose bytes are gone; only the steps that made them can bring them back.
        tell(Event("release", "start", "again", f"every step, because {error}"))
        with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
            return _release(params, shop, version, budget)


def _release(params: Params, shop: Workshop, version: ModelVersionRef, budget: Budget | None) -> ReleaseResult:
    context = _prepare(params, shop, version)
    prepared = start(params, shop.objects, context, budget)
    _follow(prepared, context)
    outcomes = [_conclude(params, shop, context, lanes, budget) for lanes in prepared]
    done = release_of(context, params.accuracy.metric, [outcome for outcome, _ in outcomes])
    create_markdown_artifact(markdown(done), key="release-report", description=f"Release of {context.model.uri}")
    engines = tuple(artifact for _, artifacts in outcomes for artifact in artifacts)
    recorded = register(shop.registry, shop.objects, done, engines, tuple(report(shop.objects, done)))
    promotions = {
        target: promote(shop.registry, f"{version.name}.{target}", number, context.data.md5, params.approval.required)
        for target, number in recorded.versions.items()
    }
    return ReleaseResult(release=done, recorded=recorded, promotions=promotions)


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
    )


def _follow(prepared: Sequence[Lanes], context: Context) -> None:
    """Wait until every candidate is validated: a build beside a benchmark would be measured too.

    Raises:
        SlipwayError: a reference could not be evaluated, and without it no candidate can be judged.
    """
    lanes = [lane for one in prepared for lane in one.lanes]
    description = f"Candidates of {context.model.uri}"
    artifact: Any = create_progress_artifact(0.0, key="release-progress", description=description)
    for done, lane in enumerate(lanes, start=1):
        lane.wait()
        update_progress_artifact(artifact, 100 * done / len(lanes))
    for one in prepared:
        one.predictions.result()


def _conclude(
    params: Params, shop: Workshop, context: Context, lanes: Lanes, budget: Budget | None
) -> tuple[TargetOutcome, list[Artifact]]:
    name, target = lanes.target, params.targets[lanes.target]
    predictions = lanes.predictions.result()
    outcomes = [(lane.spec, *lane.outcomes()) for lane in lanes.lanes]
    valid = [(b, v) for _, b, v in outcomes if isinstance(b, Built) and isinstance(v, Validated)]
    valid = [(b, v) for b, v in valid if is_worth_timing(params.accuracy, v, budget)]
    built = [built for built, _ in valid]
    champion = find_champion(shop.registry, shop.objects, f"{context.model.name}.{name}", context.hardware, built)
    serves = champion.artifact.digest if champion else None
    if champion in built:
        champion = None  # it takes part as a candidate
    limit = time_limit(budget, params.accuracy, target.objective, valid)
    settings = (name, target.measured(), params.latency, context.hardware, context.data)
    try:
        timings = benchmark(shop.objects, *settings, lanes.reference, valid, champion, limit)
    except UnsettledError as error:
        timings = error.timings
    evidences = [
        judge(context, spec, params, built, validated, timings.of(built), timings.reference_profile)
        for spec, built, validated in outcomes
    ]
    outcome = conclude(context, name, target, predictions, evidences, timings.reference_trace, serves)
    return outcome, [built.artifact for _, built, _ in outcomes if isinstance(built, Built)]
