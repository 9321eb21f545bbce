"""Answer the whole test set with the reference of a target."""

from __future__ import annotations

from prefect import task

from slipway.config import AccuracyParams
from slipway.records import Built, DataSource, Predictions
from slipway.steps.isolated import isolated
from slipway.steps.validate import evaluate_reference as evaluate_step
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD


@task(name="validate", task_run_name="validate reference", **CACHED, **RETRIED, **TOLD)
def evaluate_reference(
    objects: ObjectStore, reference: Built, data: DataSource, policy: AccuracyParams, threads: int
) -> Predictions:
    """The reference's answers, to which every candidate is compared."""
    return isolated(evaluate_step)(objects, reference, data, policy, threads)
