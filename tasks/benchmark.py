"""Time all candidates of one target; never two benchmarks on one host at once."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from slipway.config import LatencyParams, TargetParams
from slipway.errors import SlipwayError
from slipway.records import Built, DataSource, Failure, Hardware, Timed, Validated, Verdict
from slipway.steps.benchmark import Timings
from slipway.steps.benchmark import benchmark as benchmark_step
from slipway.steps.benchmark import find_champion as find_step
from slipway.steps.budget import TimeLimit
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry
from tasks.policy import CACHED, RETRIED, TOLD


class UnsettledError(SlipwayError):
    """Timings that another session may better: of a loaded host, of a worker that broke down, or cut short.

    Raised and not returned, so that no cache keeps them and the next release measures again.
    """

    told_as = "done"

    def __init__(self, timings: Timings) -> None:
        super().__init__("timed, but not for good: the next release measures again")
        self.timings = timings


@task(name="find champion", task_run_name="find champion of {name}", cache_policy=NO_CACHE, **RETRIED)
def find_champion(
    registry: Registry, objects: ObjectStore, name: str, hardware: Hardware, candidates: list[Built]
) -> Built | None:
    """The engine that serves now, which no candidate may be much slower than; it may be one of them."""
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
    limit: TimeLimit | None = None,
) -> Timings:
    """Timings per candidate; ``hardware`` is part of the cache's key, so that no other machine's figures come back.

    Raises:
        UnsettledError: with the timings, which are not to be kept.
    """
    timings = benchmark_step(objects, target, latency, data, reference, candidates, champion, limit)
    if limit is not None or not all(_is_for_good(timed) for timed in timings.by_digest.values()):
        raise UnsettledError(timings)
    return timings


def _is_for_good(timed: Timed | Failure) -> bool:
    if isinstance(timed, Failure):
        return timed.decision.verdict is Verdict.FAIL
    timing = timed.timing
    return timing.latency.settled and timing.reference_latency.settled and timed.no_champion is None
