"""Record the release in the registry; not cached, because the registry itself knows what it has."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from slipway.records import Artifact, Recorded, Release
from slipway.steps.register import register as register_step
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry
from tasks.policy import RETRIED, TOLD


@task(name="register", task_run_name="register release", cache_policy=NO_CACHE, **RETRIED, **TOLD)
def register(
    registry: Registry,
    objects: ObjectStore,
    release: Release,
    engines: tuple[Artifact, ...],
    report: tuple[Artifact, ...],
) -> Recorded:
    """Evidence first, then one version per target with a chosen engine."""
    return register_step(registry, objects, release, engines, report)
