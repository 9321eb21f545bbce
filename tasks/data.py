"""Hash the data sets against what DVC tracks; never cached, because that is the point."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from slipway.records import Signature
from slipway.steps.data import CheckedData
from slipway.steps.data import check_data as check_data_step
from tasks.policy import TOLD


@task(name="verify", task_run_name="verify data", cache_policy=NO_CACHE, **TOLD)
def check_data(test: Path, calibration: Path | None, signature: Signature, training: Path | None = None) -> CheckedData:
    """The data sets, if their bytes are those that were tracked and none shares an example with the test set."""
    return check_data_step(test, calibration, signature, training)
