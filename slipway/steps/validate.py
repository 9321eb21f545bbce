"""Prove accuracy: run one engine file over the whole test set, and compare it with the reference example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from slipway.config import AccuracyParams
from slipway.engines import engine
from slipway.engines.base import Arrays, RunOptions
from slipway.measure.accuracy import compare, load_predictions, predict, save_predictions
from slipway.measure.metrics import metric
from slipway.measure.parity import compare_outputs
from slipway.records import Artifact, Built, DataSource, Predictions, Validated
from slipway.steps.progress import meter
from slipway.stores.datasets import batches, count
from slipway.stores.objects import ObjectStore

VALIDATION_BATCH = 32


def evaluate_reference(
    objects: ObjectStore, reference: Built, data: DataSource, policy: AccuracyParams, threads: int
) -> Predictions:
    """Run the reference over ``data`` and keep its outputs, to which every candidate is compared."""
    outputs, target, _ = _run(objects, reference, "reference", data, threads)
    value = metric(policy.metric).value(next(iter(outputs.values())), target)
    return Predictions(
        artifact=_keep(objects, outputs, target), metric=policy.metric, value=float(value), n=len(target)
    )


def validate(
    objects: ObjectStore,
    built: Built,
    data: DataSource,
    reference: Predictions,
    policy: AccuracyParams,
    threads: int,
) -> Validated:
    """Run one candidate over ``data``; accuracy and parity against the reference's answers.

    Raises:
        RejectedError: the outputs hold NaN, or their shapes differ from the reference's.
    """
    outputs, target, executed = _run(objects, built, str(built.spec), data, threads)
    expected, expected_target = load_predictions(objects.path(reference.artifact))
    parity = compare_outputs(expected, outputs)
    accuracy = compare(metric(policy.metric), (expected, expected_target), outputs, policy.confidence)
    return Validated(
        accuracy=accuracy,
        parity=parity,
        executed_precision=executed,
        predictions=_keep(objects, outputs, target),
    )


def _run(
    objects: ObjectStore, built: Built, line: str, data: DataSource, threads: int
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, int]]:
    with engine(built.spec.engine).load(objects.path(built.artifact), RunOptions(threads=threads)) as session:
        names = [spec.name for spec in session.inputs]
        outputs, target = predict(session.infer, _pairs(Path(data.path), names, meter(line, "validate")))
        return outputs, target, session.executed_precision()


def _pairs(directory: Path, names: list[str], told: Callable[[float], None]) -> Iterator[tuple[Arrays, np.ndarray]]:
    done, total = 0, count(directory)
    for batch in batches(directory, names, VALIDATION_BATCH):
        if batch.target is not None:
            yield batch.inputs, batch.target
        done += len(batch)
        told(done / max(total, done))


def _keep(objects: ObjectStore, outputs: dict[str, np.ndarray], target: np.ndarray) -> Artifact:
    with objects.new_dir() as folder:
        path = folder / "predictions.npz"
        save_predictions(path, outputs, target)
        return objects.put(path)
