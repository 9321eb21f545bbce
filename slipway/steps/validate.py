"""Prove accuracy: run one engine file over the whole test set, and compare it with the reference example by example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slipway.config import AccuracyParams
from slipway.engines import engine
from slipway.engines.base import RunOptions, Session
from slipway.errors import BadInputError, RejectedError
from slipway.measure.accuracy import compare, kept_of_reference
from slipway.measure.arrays import Array, Arrays, Infer, Joined, write_arrays
from slipway.measure.example import EXAMPLE_FILE, ExampleDraw, load_example, save_example
from slipway.measure.metrics import Metric, metric
from slipway.measure.predictions import save_predictions, written_predictions
from slipway.measure.probe import ProbeDraw, given_up, hopeless, load_probe
from slipway.records import Artifact, Built, DataSource, Predictions, Rebuild, Validated
from slipway.steps.edges import answers
from slipway.steps.progress import meter
from slipway.stores.datasets import Batch, batches, count
from slipway.stores.objects import ObjectStore

VALIDATION_BATCH = 32
FIRST_BATCH = "first_batch"  # the option by which an engine tells the batch size that it has code of its own for


def evaluate_reference(
    objects: ObjectStore, reference: Built, data: DataSource, policy: AccuracyParams, threads: int
) -> Predictions:
    """Run the reference over ``data`` and keep its outputs, to which every candidate is compared.

    Raises:
        BadInputError: the data do not fit the metric, with the file named, or the reference answers NaN.
    """
    rule, n = metric(policy.metric), count(Path(data.path))
    kept, draw, few = Joined(n), ProbeDraw(n), ExampleDraw(n)
    with objects.new_dir() as folder:
        path, probe, example = (folder / name for name in ("predictions.npz", "probe.npz", EXAMPLE_FILE))
        with _loaded(objects, reference, threads) as session, written_predictions(path) as add:
            for batch, target in _labelled(data, session, "reference", VALIDATION_BATCH):
                outputs = session.infer(batch.inputs)
                add(outputs, target)
                kept.add(*_scored(rule, outputs, target, batch.path))
                draw.add(batch.inputs, outputs, target)
                few.add(batch.inputs, outputs, target)
        no_example = few.save(example)
        return Predictions(
            artifact=objects.put(path),
            metric=policy.metric,
            value=rule.value(kept.arrays),
            n=n,
            probe=objects.put(probe) if rule.kind == "binary" and draw.save(probe) else None,
            example=None if no_example else objects.put(example),
            no_example=no_example,
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

    An engine with code of its own for one batch size, the one that is timed and served, is asked in batches of that
    size, so that its accuracy is of that code; examples left over at the end of a shard make a smaller batch. The few
    examples that are kept with the engine are asked one by one, which is how most requests come.

    Raises:
        RejectedError: the outputs hold NaN, or their shapes differ from the reference's.
    """
    exam = _Exam(objects, data, reference, policy, threads)
    done = exam.taken(built, give_up_drop)
    rebuilds = [Rebuild(digest=other.digest, size_bytes=other.size_bytes) for other in built.rebuilds]
    if not done.accuracy.given_up:
        for index, artifact in enumerate(built.rebuilds):
            other = built.model_copy(update={"artifact": artifact})
            try:
                found = exam.taken(other)
            except RejectedError as error:
                raise RejectedError(f"another build ({artifact.digest[:12]}) is not like the first: {error}") from error
            rebuilds[index] = rebuilds[index].model_copy(update={"accuracy": found.accuracy.value})
    return done.model_copy(update={"rebuilds": tuple(rebuilds)})


@dataclass(frozen=True)
class _Exam:
    """The test set, what the reference answered to it, and how an engine file's answers are judged."""

    objects: ObjectStore
    data: DataSource
    reference: Predictions
    policy: AccuracyParams
    threads: int

    def taken(self, built: Built, give_up_drop: float | None = None) -> Validated:
        """What came of one engine file, further builds left aside."""
        objects, reference = self.objects, self.reference
        rule, expected = metric(self.policy.metric), objects.path(reference.artifact)
        size = int(built.options.get(FIRST_BATCH, VALIDATION_BATCH))
        with objects.new_dir() as folder, _loaded(objects, built, self.threads) as session:
            found, failed = folder / "predictions.npz", None
            if give_up_drop is not None and reference.probe is not None:
                probe = load_probe(objects.path(reference.probe))
                failed = hopeless(_in_batches(session, size), probe, rule, give_up_drop)
            if failed:
                part, answered = failed
                expected = folder / "reference.npz"
                save_predictions(expected, part.outputs, part.target)
                save_predictions(found, answered, part.target)
            else:
                with written_predictions(found) as add:
                    for batch, target in _labelled(self.data, session, str(built.spec), size):
                        add(session.infer(batch.inputs), target)
            comparison = compare(rule, expected, found, self.policy.confidence)
            if failed:
                comparison = given_up(comparison, failed[0].example, reference.n)
            return Validated(
                accuracy=comparison.accuracy,
                parity=comparison.parity,
                executed_precision=session.executed_precision(),
                predictions=objects.put(found),
                scores=_kept_scores(objects, folder / "scores.npz", comparison.scores),
                example=self._example(session, folder / EXAMPLE_FILE),
                notes=(reference.no_example,) if reference.no_example else (),
            )

    def _example(self, session: Session, path: Path) -> Artifact | None:
        if self.reference.example is None:
            return None
        few = load_example(self.objects.path(self.reference.example))
        save_example(path, replace(few, outputs=_in_batches(session, 1)(few.inputs)))
        return self.objects.put(path)


def _loaded(objects: ObjectStore, built: Built, threads: int) -> Session:
    return engine(built.spec.engine).load(objects.path(built.artifact), RunOptions(threads=threads))


def _in_batches(session: Session, size: int) -> Infer:
    """What ``session`` answers in batches of at most ``size``."""

    def infer(inputs: Arrays) -> Arrays:
        starts = range(0, len(next(iter(inputs.values()))), size)
        if len(starts) == 1:
            return session.infer(inputs)
        parts = [
            answers(session, {name: array[start : start + size] for name, array in inputs.items()}) for start in starts
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return infer


def _labelled(data: DataSource, session: Session, line: str, size: int) -> Iterator[tuple[Batch, Array]]:
    """The batches of ``data``, of ``size`` examples, with their targets, while what is done is told."""
    directory, told = Path(data.path), meter(line, "validate")
    done, total = 0, count(directory)
    for batch in batches(directory, [spec.name for spec in session.inputs], size):
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
