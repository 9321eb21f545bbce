"""Fetch the model version once; the version behind an alias is resolved anew by every release."""

from __future__ import annotations

from prefect import task

from slipway.records import ModelSource
from slipway.steps.fetch import fetch as fetch_step
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import ModelVersionRef, Registry
from tasks.policy import CACHED, RETRIED, TOLD


@task(name="fetch", task_run_name="fetch model", **CACHED, **RETRIED, **TOLD)
def fetch(registry: Registry, objects: ObjectStore, version: ModelVersionRef, trust_pickle: bool) -> ModelSource:
    """The model version in the object store."""
    return fetch_step(registry, objects, version, trust_pickle)
