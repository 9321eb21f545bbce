"""Validate one candidate on the whole test set."""

from __future__ import annotations

from prefect import task

from slipway.config import AccuracyParams
from slipway.records import Built, CandidateSpec, DataSource, Failure, Predictions, Validated
from slipway.steps.isolated import isolated
from slipway.steps.outcomes import definite
from slipway.steps.validate import validate as validate_step
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD


@task(name="validate", task_run_name="validate {spec}", **CACHED, **RETRIED, **TOLD)
def validate(
    objects: ObjectStore,
    spec: CandidateSpec,
    built: Built | Failure,
    data: DataSource,
    reference: Predictions,
    policy: AccuracyParams,
    threads: int,
) -> Validated | Failure:
    """Accuracy and parity, or why the candidate's answers are unusable."""
    return definite(isolated(validate_step))(objects, built, data, reference, policy, threads)
