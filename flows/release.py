"""One release: a registered model version in, the best proven engine per target out."""

from __future__ import annotations

import time

from filelock import FileLock, Timeout
from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.elsewhere import out_of_reach, start_elsewhere
from flows.lanes import start_target, start_variants
from flows.targets import RUNNER, conclude_target, follow, healed
from slipway.config import Params
from slipway.errors import BadInputError
from slipway.records import ReleaseResult
from slipway.reports.summary import markdown
from slipway.steps.budget import Budget
from slipway.steps.inputs import input_data
from slipway.steps.judge import Context, release_of
from slipway.stores.registry import ModelVersionRef
from slipway.wiring import Workshop, check_targets, code_revision, host_hardware, training_data, workshop
from tasks.data import check_data
from tasks.fetch import fetch
from tasks.inputs import summarize_inputs
from tasks.promote import promote
from tasks.register import register
from tasks.report import report


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
            return healed(lambda: _release(params, shop, version, budget))
    except Timeout:
        raise BadInputError(f"another release of {version.name} is running in this project; wait for it") from None


def _release(params: Params, shop: Workshop, version: ModelVersionRef, budget: Budget | None) -> ReleaseResult:
    context = _prepare(params, shop, version)
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
        inputs=summarize_inputs(shop.objects, source.signature, input_data(data)),
    )
