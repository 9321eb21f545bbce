"""Check the data of a release: the bytes are those that DVC tracks, and calibration has seen no test example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slipway.errors import BadInputError
from slipway.records import DataSource, Record
from slipway.stores.datasets import overlap
from slipway.stores.tracking import verify


class CheckedData(Record):
    """The data sets of a release, hashed."""

    test: DataSource
    calibration: DataSource | None


def check_data(test: Path, calibration: Path | None, input_names: Sequence[str]) -> CheckedData:
    """Hash both directories against their tracking records.

    Raises:
        TamperedError: a file differs from what is tracked; it is named.
        BadInputError: a directory is missing or untracked, or calibration and test share examples.
    """
    test_source = verify(test)
    if calibration is None:
        return CheckedData(test=test_source, calibration=None)
    calibration_source = verify(calibration)
    shared = overlap(calibration, test, input_names)
    if shared:
        raise BadInputError(
            f"{calibration} and {test} share {shared} examples: a quantized model calibrated on its own exam proves "
            "nothing; remove them from the calibration set and track it again with `dvc add`"
        )
    return CheckedData(test=test_source, calibration=calibration_source)
