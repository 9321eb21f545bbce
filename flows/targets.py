"""One target on the host that it names: its candidates prepared, timed and judged. For a release and for a worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from flows.lanes import Lanes
from flows.prefect_ui import Progress, key_of
from slipway.config import Params
from slipway.records import Artifact, Built, TargetOutcome, Validated
from slipway.steps.benchmark import Timings
from slipway.steps.budget import Budget, is_worth_timing, time_limit
from slipway.steps.judge import Context, conclude, judge
from slipway.steps.progress import Event, tell
from slipway.stores.objects import DamagedObjectError, MissingObjectError
from slipway.wiring import Workshop
from tasks.benchmark import UnsettledError, benchmark, find_champion

T = TypeVar("T")
Concluded = tuple[TargetOutcome, list[Artifact]]

# Any: prefect's own type parameter is invariant.
RUNNER: Any = ThreadPoolTaskRunner(max_workers=len(os.sched_getaffinity(0)))


def healed(work: Callable[[], T]) -> T:
    """The result of ``work``, which is done again, without the cache, when the object store lost what the cache has."""
    try:
        return work()
    except (MissingObjectError, DamagedObjectError) as error:
        # The cache remembers results whose bytes are gone; only the steps that made them can bring them back.
        tell(Event("release", "start", "again", f"every step, because {error}"))
        with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}):
            return work()


def follow(prepared: Sequence[Lanes], context: Context) -> None:
    """Wait until every candidate is validated: a build beside a benchmark would be measured too.

    Raises:
        SlipwayError: a reference could not be evaluated, and without it no candidate can be judged.
    """
    lanes = [lane for one in prepared for lane in one.lanes]
    description = f"Candidates of {context.model.uri}"
    bar = Progress(key_of("release-progress", context.model.name), description)
    for done, lane in enumerate(lanes, start=1):
        lane.wait()
        bar.set(100 * done / len(lanes))
    for one in prepared:
        one.predictions.result()


def conclude_target(params: Params, shop: Workshop, context: Context, lanes: Lanes, budget: Budget | None) -> Concluded:
    """Time and judge the validated candidates; the outcome, and the engine files that it is about."""
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
    timings = Timings(by_digest={})
    try:
        if valid:  # the reference alone would have the host to itself for a figure that nobody keeps
            timings = benchmark(shop.objects, *settings, lanes.reference, valid, champion, limit)
    except UnsettledError as error:
        timings = error.timings
    evidences = [
        judge(context, spec, params, built, validated, timings.of(built), timings.reference_profile)
        for spec, built, validated in outcomes
    ]
    outcome = conclude(context, name, target, predictions, evidences, timings.reference_trace, serves)
    return outcome, [built.artifact for _, built, _ in outcomes if isinstance(built, Built)]


def named_in(outcome: TargetOutcome) -> list[Artifact]:
    """The files that an outcome names beside its engines: what is kept beside its evidence, and a trace."""
    attached = [artifact for evidence in outcome.candidates for artifact in evidence.attachments]
    return [*attached, outcome.reference_trace] if outcome.reference_trace else attached
