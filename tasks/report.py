"""Write the report and the plots of a release."""

from __future__ import annotations

from prefect import task

from slipway.records import Artifact, Release
from slipway.steps.report import report as report_step
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD


@task(name="report", task_run_name="report release", **CACHED, **RETRIED, **TOLD)
def report(objects: ObjectStore, release: Release) -> tuple[Artifact, ...]:
    """The files a person opens."""
    return report_step(objects, release)
