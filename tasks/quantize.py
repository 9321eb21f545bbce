"""Make one variant in one form; every engine that builds from that form shares it."""

from __future__ import annotations

from prefect import task

from slipway.config import CalibrationParams
from slipway.records import DataSource, Exported, Failure, ModelSource, VariantFile
from slipway.steps.budget import Budget, require_time
from slipway.steps.isolated import isolated
from slipway.steps.outcomes import definite
from slipway.steps.quantize import quantize as quantize_step
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD


@task(name="quantize", task_run_name="quantize {variant} {form}", **CACHED, **RETRIED, **TOLD)
def quantize(
    objects: ObjectStore,
    source: ModelSource,
    form: str,
    exported: Exported | Failure,
    variant: str,
    data: DataSource,
    calibration: DataSource | None,
    ranges: CalibrationParams,
    budget: Budget | None = None,
) -> VariantFile | Failure:
    """The variant's file, or why there is none."""
    require_time(budget, "quantize")
    return definite(isolated(quantize_step))(objects, source, exported, variant, data, calibration, ranges)
