"""Export the model into one form, checked against eager PyTorch."""

from __future__ import annotations

from prefect import task

from slipway.records import DataSource, Exported, Failure, Form, ModelSource
from slipway.steps.export import export as export_step
from slipway.steps.isolated import isolated
from slipway.steps.outcomes import definite
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD


@task(name="export", task_run_name="export fp32 {form}", **CACHED, **RETRIED, **TOLD)
def export(objects: ObjectStore, source: ModelSource, form: Form, data: DataSource) -> Exported | Failure:
    """The exported file, or why the model cannot be had in this form."""
    return definite(isolated(export_step))(objects, source, form, data)
