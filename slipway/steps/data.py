"""Check the data of a release: as DVC tracks them, as the model takes them, and calibration saw no test example."""

from __future__ import annotations

from pathlib import Path

from slipway.errors import BadInputError
from slipway.records import DataSource, Record, Signature, TensorSpec
from slipway.stores.datasets import Batch, batches, overlap
from slipway.stores.tracking import verify

CHECKED_BATCH = 1024


class CheckedData(Record):
    """The data sets of a release, hashed."""

    test: DataSource
    calibration: DataSource | None
    training: DataSource | None = None


def check_data(test: Path, calibration: Path | None, signature: Signature, training: Path | None = None) -> CheckedData:
    """Hash the directories against their tracking records, and read every shard once before any model runs.

    Raises:
        TamperedError: a file differs from what is tracked; it is named.
        BadInputError: a directory is missing, untracked or without examples, an array is missing, not finite, unlike
            those of other shards or not what the signature takes, or test shares examples with another.
    """
    test_source = verify(test)
    _check_arrays(test, signature, with_target=True)
    return CheckedData(
        test=test_source,
        calibration=calibration and _check_unlike(calibration, test, signature, "calibrat"),
        training=training and _check_unlike(training, test, signature, "train"),
    )


def _check_unlike(directory: Path, test: Path, signature: Signature, done: str) -> DataSource:
    source = verify(directory)
    _check_arrays(directory, signature, with_target=False)
    shared = overlap(directory, test, [spec.name for spec in signature.inputs])
    if shared:
        raise BadInputError(
            f"{directory} and {test} share {shared} examples: a quantized model {done}ed on its own exam proves "
            f"nothing; remove them from {directory} and track it again with `dvc add`"
        )
    return source


def _check_arrays(directory: Path, signature: Signature, *, with_target: bool) -> None:
    names = [spec.name for spec in signature.inputs]
    for batch in batches(directory, names, CHECKED_BATCH, with_target=with_target):
        for spec in signature.inputs:
            _check_fits(batch, spec)


def _check_fits(batch: Batch, spec: TensorSpec) -> None:
    array = batch.inputs[spec.name]
    found, wanted = array.shape[1:], spec.shape[1:]
    fits = len(found) == len(wanted) and all(size in {-1, length} for length, size in zip(found, wanted, strict=True))
    if not fits or array.dtype != spec.dtype:
        raise BadInputError(
            f"{batch.path}: array {spec.name!r} is {array.dtype}{list(found)} per example, the model's input is "
            f"{spec.dtype}{list(wanted)}; convert the data, or release the model that fits them"
        )
