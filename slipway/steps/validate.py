"""Prove accuracy: run one engine file over the whole test set, and compare it with the reference example by example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slipway.config import AccuracyParams
from slipway.engines import engine
from slipway.engines.base import RunOptions, Session
from slipway.errors import BadInputError, RejectedError
from slipway.measure.accuracy import compare, kept_of_reference
from slipway.measure.arrays import Array, Arrays, Joined, write_arrays
from slipway.measure.metrics import Metric, metric
from slipway.measure.predictions import save_predictions, written_predictions
from slipway.measure.probe import ProbeDraw, given_up, hopeless, load_probe
from slipway.records import Artifact, Built, DataSource, Predictions, Rebuild, Validated
from slipway.steps.progress import meter
from slipway.stores.datasets import Batch, batches, count
from slipway.stores.objects import ObjectStore

VALIDATION_BATCH = 32


def evaluate_reference(
    objects: ObjectStore, reference: Built, data: DataSource, policy: AccuracyParams, threads: int
) -> Predictions:
    """Run the reference over ``data`` and keep its outputs, to which every candidate is compared.

    Raises:
        BadInputError: the data do not fit the metric, with the file named, or the reference answers NaN.
    """
    rule, n = metric(policy.metric), count(Path(data.path))
    kept, draw = Joined(n), ProbeDraw(n)
    with objects.new_dir() as folder:
        path, probe = folder / "predictions.npz", folder / "probe.npz"
        with _loaded(objects, reference, threads) as session, written_predictions(path) as add:
            for batch, target in _labelled(data, session, "reference"):
                outputs = session.infer(batch.inputs)
                add(outputs, target)
                kept.add(*_scored(rule, outputs, target, batch.path))
                draw.add(batch.inputs, outputs, target)
        return Predictions(
            artifact=objects.put(path),
            metric=policy.metric,
            value=rule.value(kept.arrays),
            n=n,
            probe=objects.put(probe) if rule.kind == "binary" and draw.save(probe) else None,
        )


def validate(
    objects: ObjectStore,
    built: Built,
    data: DataSource,
    reference: Predictions,
    policy: AccuracyParams,
    threads: int,
    give_up_drop: float | None = None,
) -> Validated:
    """Run one candidate over ``data``; accuracy and parity against the reference's answers.

    A candidate that soon proves to lose more than ``give_up_drop`` is given up; None runs every one to the end. Its
    predictions, parity and accuracy are then those of the random examples that proved it. Further builds that gave
    other bytes run over ``data`` as well, for their accuracy, unless the candidate was given up.

    Raises:
        RejectedError: the outputs hold NaN, or their shapes differ from the reference's.
    """
    done = _validate_kept(objects, built, data, reference, policy, threads, give_up_drop)
    rebuilds = [Rebuild(digest=other.digest, size_bytes=other.size_bytes) for other in built.rebuilds]
    if not done.accuracy.given_up:
        for index, artifact in enumerate(built.rebuilds):
            other = built.model_copy(update={"artifact": artifact})
            try:
                found = _validate_kept(objects, other, data, reference, policy, threads)
            except RejectedError as error:
                raise RejectedError(f"another build ({artifact.digest[:12]}) is not like the first: {error}") from error
            rebuilds[index] = rebuilds[index].model_copy(update={"accuracy": found.accuracy.value})
    return done.model_copy(update={"rebuilds": tuple(rebuilds)})


def _validate_kept(
    objects: ObjectStore,
    built: Built,
    data: DataSource,
    reference: Predictions,
    policy: AccuracyParams,
    threads: int,
    give_up_drop: float | None = None,
) -> Validated:
    rule, expected = metric(policy.metric), objects.path(reference.artifact)
    with objects.new_dir() as folder, _loaded(objects, built, threads) as session:
        found, failed = folder / "predictions.npz", None
        if give_up_drop is not None and reference.probe is not None:
            failed = hopeless(session.infer, load_probe(objects.path(reference.probe)), rule, give_up_drop)
        if failed:
            part, answers = failed
            expected = folder / "reference.npz"
            save_predictions(expected, part.outputs, part.target)
            save_predictions(found, answers, part.target)
        else:
            with written_predictions(found) as add:
                for batch, target in _labelled(data, session, str(built.spec)):
                    add(session.infer(batch.inputs), target)
        comparison = compare(rule, expected, found, policy.confidence)
        if failed:
            comparison = given_up(comparison, failed[0].example, reference.n)
        return Validated(
            accuracy=comparison.accuracy,
            parity=comparison.parity,
            executed_precision=session.executed_precision(),
            predictions=objects.put(found),
            scores=_kept_scores(objects, folder / "scores.npz", comparison.scores),
        )


def _loaded(objects: ObjectStore, built: Built, threads: int) -> Session:
    return engine(built.spec.engine).load(objects.path(built.artifact), RunOptions(threads=threads))


def _labelled(data: DataSource, session: Session, line: str) -> Iterator[tuple[Batch, Array]]:
    """The batches of ``data`` with their targets, while what is done is told."""
    directory, told = Path(data.path), meter(line, "validate")
    done, total = 0, count(directory)
    for batch in batches(directory, [spec.name for spec in session.inputs], VALIDATION_BATCH):
        if batch.target is not None:
            yield batch, batch.target
        done += len(batch)
        told(done / max(total, done))


def _scored(rule: Metric, outputs: Arrays, target: Array, path: Path | None) -> tuple[Array, ...]:
    try:
        return kept_of_reference(rule, next(iter(outputs.values())), target)
    except BadInputError as error:
        raise BadInputError(f"metric {rule.name!r} cannot score array 'target' of {path}: {error}") from error


def _kept_scores(objects: ObjectStore, path: Path, scores: Arrays | None) -> Artifact | None:
    if scores is None:
        return None
    write_arrays(path, scores)
    return objects.put(path)
