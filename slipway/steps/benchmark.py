"""Prove speed: the reference, the champion and all candidates of a target, interleaved in one timing session."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock

from slipway.config import TargetParams
from slipway.errors import RejectedError, SlipwayError
from slipway.measure.accuracy import load_predictions
from slipway.measure.parity import compare_outputs
from slipway.measure.sessions import Participant, ParticipantTiming, TimingPlan, run_session
from slipway.records import Built, DataSource, Decision, Failure, Hardware, Record, Timed, Validated, Verdict
from slipway.steps.export import first
from slipway.steps.outcomes import failure
from slipway.steps.progress import meter
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry

# Thread counts change the order of sums, and with it the last bits; int8 rounding makes whole steps of some of them.
SAME_ANSWER_COSINE = 0.999


class Timings(Record):
    """Per candidate digest, its timing or why there is none."""

    by_digest: dict[str, Timed | Failure]

    def of(self, built: Built | Failure) -> Timed | Failure:
        """The timing of a candidate; of one that was not timed, that this is so."""
        if isinstance(built, Built) and built.artifact.digest in self.by_digest:
            return self.by_digest[built.artifact.digest]
        reason = "not timed, because an earlier step ended it"
        return Failure(step="benchmark", decision=Decision(verdict=Verdict.SKIPPED, reasons=(reason,)))


def benchmark(
    objects: ObjectStore,
    target: TargetParams,
    data: DataSource,
    reference: Built,
    candidates: Sequence[tuple[Built, Validated]],
    champion: Built | None,
) -> Timings:
    """Time all candidates against the reference, and against the champion where there is one.

    Only one benchmark runs per host at a time, whichever project or process starts it.

    Raises:
        InfrastructureError: the reference could not be timed.
    """
    plan = TimingPlan(threads=target.threads, batch=target.batch)
    files = {built.artifact.digest: built for built, _ in candidates}
    timed = [*files.values(), *([champion] if champion else [])]
    with host_to_itself():
        session = run_session(
            _participant(objects, reference, data, "reference"),
            [_participant(objects, built, data, str(built.spec)) for built in timed],
            plan,
            os.sched_getaffinity(0),
            meter(f"target {reference.spec.target}", "benchmark"),
        )
    results = dict(zip((built.artifact.digest for built in timed), session.candidates, strict=True))
    base = results[champion.artifact.digest] if champion else None
    answers = {built.artifact.digest: load_predictions(objects.path(done.predictions))[0] for built, done in candidates}
    return Timings(by_digest={digest: _timed(results[digest], base, answers[digest]) for digest in files})


def find_champion(
    registry: Registry, objects: ObjectStore, name: str, hardware: Hardware, candidates: Collection[str]
) -> Built | None:
    """The engine that serves now as the champion of ``name``, to be timed beside the candidates.

    None if there is none, if it was built for other hardware, or if it is one of ``candidates`` (digests) itself: then
    choosing the best of them already compares with it.
    """
    version = registry.champion(name)
    if version is None:
        return None
    evidence = registry.version(name, version).evidence
    if evidence.hardware.fingerprint != hardware.fingerprint or evidence.digest in candidates:
        return None
    with objects.new_dir() as folder:
        artifact = objects.put(registry.engine_path(name, version, folder))
    return Built(
        spec=evidence.spec, artifact=artifact, options=evidence.options, engine_version=evidence.engine_version or ""
    )


@contextmanager
def host_to_itself() -> Iterator[None]:
    """Hold the host's benchmark lock, which the kernel releases even if this process is killed."""
    with FileLock(Path(tempfile.gettempdir()) / "slipway-benchmark.lock", mode=0o666):
        yield


def _participant(objects: ObjectStore, built: Built, data: DataSource, name: str) -> Participant:
    path = objects.path(built.artifact)
    command = (sys.executable, "-m", "slipway.steps.timed_engine", built.spec.engine, str(path), data.path)
    return Participant(name=name, argv=command)


def _timed(
    result: ParticipantTiming | SlipwayError,
    champion: ParticipantTiming | SlipwayError | None,
    validated: Mapping[str, np.ndarray],
) -> Timed | Failure:
    try:
        if isinstance(result, SlipwayError):
            raise result
        _check_same_answers(validated, result.outputs)
    except SlipwayError as error:
        return failure("benchmark", error)
    over = result.speedup_over(champion) if isinstance(champion, ParticipantTiming) else None
    return Timed(timing=result.timing, over_champion=over)


def _check_same_answers(validated: Mapping[str, np.ndarray], timed: Mapping[str, np.ndarray]) -> None:
    """Accuracy and speed are of one piece only if the timed session answers as the validated one did."""
    size = min(len(next(iter(outputs.values()))) for outputs in (validated, timed))
    cosine = compare_outputs(first(validated, size), first(timed, size)).cosine
    if cosine < SAME_ANSWER_COSINE:
        raise RejectedError(
            f"the timed session answers differently from the validated one (cosine {cosine:.4f}, at least "
            f"{SAME_ANSWER_COSINE} wanted): the engine's result depends on its thread count"
        )
