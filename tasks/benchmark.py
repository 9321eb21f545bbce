"""Time all candidates of one target; never two benchmarks on one host at once."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from slipway.config import LatencyParams, TargetParams
from slipway.records import Built, DataSource, Hardware, Validated
from slipway.steps.benchmark import Timings
from slipway.steps.benchmark import benchmark as benchmark_step
from slipway.steps.benchmark import find_champion as find_step
from slipway.steps.budget import Budget
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry
from tasks.policy import CACHED, RETRIED, TOLD


@task(name="find champion", task_run_name="find champion of {name}", cache_policy=NO_CACHE, **RETRIED)
def find_champion(
    registry: Registry, objects: ObjectStore, name: str, hardware: Hardware, candidates: list[str]
) -> Built | None:
    """The engine that serves now, if it is not among the candidates' digests; it takes part in the timing."""
    return find_step(registry, objects, name, hardware, candidates)


@task(name="benchmark", task_run_name="benchmark target {name}", **CACHED, **RETRIED, **TOLD)
def benchmark(
    objects: ObjectStore,
    name: str,
    target: TargetParams,
    latency: LatencyParams,
    hardware: Hardware,
    data: DataSource,
    reference: Built,
    candidates: list[tuple[Built, Validated]],
    champion: Built | None,
    budget: Budget | None = None,
    budget_seconds: float | None = None,
) -> Timings:
    """Timings per candidate.

    ``hardware`` is part of the cache's key, so that no other machine's figures come back; so is ``budget_seconds``,
    since a search under a budget measures less.
    """
    left_seconds = budget.left_seconds() if budget else None
    return benchmark_step(objects, target, latency, data, reference, candidates, champion, left_seconds)
