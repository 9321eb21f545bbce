"""Make one variant in one form; every engine that builds from that form shares it."""

from __future__ import annotations

from prefect import task

from slipway.config import CalibrationParams, QatParams
from slipway.records import DataSource, Exported, Failure, ModelSource, VariantFile
from slipway.steps.budget import Budget, require_time
from slipway.steps.isolated import isolated
from slipway.steps.outcomes import definite
from slipway.steps.quantize import quantize as quantize_step
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD

QUANTIZING_SECONDS = 1800
TRAINING_SECONDS = 24 * 3600  # a checkpoint is left behind for the next try


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
    training: DataSource | None = None,
    qat: QatParams | None = None,
    budget: Budget | None = None,
) -> VariantFile | Failure:
    """The variant's file, or why there is none."""
    require_time(budget, "quantize")
    step = isolated(quantize_step, TRAINING_SECONDS if training else QUANTIZING_SECONDS)
    return definite(step)(objects, source, exported, variant, data, calibration, ranges, training, qat)
