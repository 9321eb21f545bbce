"""Prove speed: the reference, the champion and all candidates of a target, interleaved in one timing session."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from slipway.config import LatencyParams, TargetParams
from slipway.decisions.staleness import stale
from slipway.errors import RejectedError, SlipwayError
from slipway.measure.parity import compare_outputs
from slipway.measure.predictions import load_predictions
from slipway.measure.sessions import Participant, ParticipantTiming, SessionTimings, TimingPlan, run_session
from slipway.records import (
    Artifact,
    Built,
    DataSource,
    Decision,
    Failure,
    Hardware,
    Profile,
    Rebuild,
    Record,
    Timed,
    Validated,
    Verdict,
)
from slipway.steps.budget import TimeLimit
from slipway.steps.edges import first
from slipway.steps.outcomes import failure
from slipway.steps.progress import meter
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry

# Thread counts change the order of sums, and with it the last bits; int8 rounding makes whole steps of some of them.
SAME_ANSWER_COSINE = 0.999
LARGEST_PLAIN_TRACE_BYTES = 1_000_000


class Timings(Record):
    """Per candidate digest, its timing or why there is none; and what the reference executed."""

    by_digest: dict[str, Timed | Failure]
    reference_profile: Profile | None = None
    reference_trace: Artifact | None = None

    def of(self, built: Built | Failure) -> Timed | Failure:
        """The timing of a candidate; of one that was not timed, that this is so."""
        if isinstance(built, Built) and built.artifact.digest in self.by_digest:
            return self.by_digest[built.artifact.digest]
        reason = "not timed, because an earlier step ended it"
        return Failure(step="benchmark", decision=Decision(verdict=Verdict.SKIPPED, reasons=(reason,)))


def benchmark(  # noqa: PLR0913, PLR0917 - every record that it reads, and both limits on the time it takes
    objects: ObjectStore,
    target: TargetParams,
    latency: LatencyParams,
    data: DataSource,
    reference: Built,
    candidates: Sequence[tuple[Built, Validated]],
    champion: Built | None,
    limit: TimeLimit | None = None,
) -> Timings:
    """Time all candidates against the reference, and against the champion where there is one; profile each.

    Further builds of a candidate that gave other bytes take part, to tell how far builds differ, and none is chosen;
    they bring a budget of their own, so that candidates get no fewer samples. Only one benchmark runs per host at a
    time, whichever project or process starts it. Under a ``limit``, candidates that are clearly slower than the others
    are dropped before they are measured in full, and further builds are measured in as few rounds as there may be.

    Raises:
        BadInputError: there are fewer CPUs than threads asked for, or LoadGen is asked for and not installed.
        InfrastructureError: the reference could not be timed.
    """
    participants = _participants(objects, [built for built, _ in candidates], data, limit)
    budget_scale = len(participants) / max(len({built.artifact.digest for built, _ in candidates}), 1)
    last = [replace(_participant(objects, champion, data, "champion"), stays=True)] if champion else []
    with host_to_itself(), objects.new_dir() as traces:
        session = run_session(
            _participant(objects, reference, data, "reference"),
            [*participants.values(), *last],
            _plan(target, latency, limit, budget_scale),
            os.sched_getaffinity(0),
            traces,
            meter(f"target {reference.spec.target}", "benchmark"),
        )
        kept: dict[Path | None, Artifact] = {
            one.trace: _kept(objects, one.trace) for one in _measured(session) if one.trace
        }
    found = dict(zip(participants, session.candidates, strict=False))  # the champion comes last
    base = session.candidates[-1] if champion else None
    answers = {
        built.artifact.digest: load_predictions(objects.path(done.predictions), target.batch[0])[0]
        for built, done in candidates
    }
    return Timings(
        by_digest={
            digest: _with_rebuilds(_timed(found[digest], base, answers[digest], kept), found, answers, digest, done)
            for digest, done in ((built.artifact.digest, done) for built, done in candidates)
        },
        reference_profile=session.reference.profile,
        reference_trace=kept.get(session.reference.trace),
    )


def find_champion(
    registry: Registry, objects: ObjectStore, name: str, hardware: Hardware, candidates: Sequence[Built]
) -> Built | None:
    """The engine that serves now as the champion of ``name``; None if there is none, or it is stale on ``hardware``.

    It is fetched from the registry, unless it is one of ``candidates``: then that one is given.
    """
    version = registry.champion(name)
    if version is None:
        return None
    evidence = registry.version(name, version).evidence
    if stale(evidence, hardware):
        return None
    for candidate in candidates:
        if candidate.artifact.digest == evidence.digest:
            return candidate
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


def _plan(
    target: TargetParams, latency: LatencyParams, limit: TimeLimit | None, budget_scale: float = 1.0
) -> TimingPlan:
    """How to time; without a ``limit`` the budget is ``budget_scale`` times that of ``latency``."""
    return TimingPlan(
        threads=target.threads,
        batch=target.batch,
        streams=target.streams,
        samples=latency.samples,
        budget_seconds=min(latency.budget_s, limit.seconds) if limit else latency.budget_s * budget_scale,
        halving=limit is not None and limit.halving,
        scenario=None if latency.scenario == "interleaved" else latency.scenario,
        server_per_s=latency.server_per_s,
    )


def _participant(objects: ObjectStore, built: Built, data: DataSource, name: str) -> Participant:
    path = objects.path(built.artifact)
    command = (sys.executable, "-m", "slipway.steps.timed_engine", built.spec.engine, str(path), data.path)
    return Participant(name=name, argv=command)


def _participants(
    objects: ObjectStore, candidates: Sequence[Built], data: DataSource, limit: TimeLimit | None
) -> dict[str, Participant]:
    """Who is timed, by digest: every candidate, and every further build of one that is no candidate itself.

    Where no candidate is promising, all of them count; a further build never does.
    """
    found: dict[str, Participant] = {}
    for built in candidates:
        digest = built.artifact.digest
        counts = limit is None or not limit.promising or digest in limit.promising
        found[digest] = replace(_participant(objects, built, data, str(built.spec)), counts=counts)
    for built in candidates:
        for artifact in built.rebuilds:
            other, name = built.model_copy(update={"artifact": artifact}), f"{built.spec}, another build"
            told = replace(_participant(objects, other, data, name), counts=False, brief=limit is not None)
            found.setdefault(artifact.digest, told)
    return found


def _with_rebuilds(
    timed: Timed | Failure,
    results: Mapping[str, ParticipantTiming | SlipwayError],
    validated: Mapping[str, Mapping[str, np.ndarray]],
    digest: str,
    done: Validated,
) -> Timed | Failure:
    """``timed``, the timing of the candidate ``digest``, with the latency of its further builds."""
    kept = results[digest]
    if isinstance(timed, Failure) or isinstance(kept, SlipwayError):
        return timed
    rebuilds = tuple(_rebuild(one, results[one.digest], kept, validated[digest]) for one in done.rebuilds)
    return timed.model_copy(update={"rebuilds": rebuilds})


def _rebuild(
    rebuild: Rebuild,
    result: ParticipantTiming | SlipwayError,
    kept: ParticipantTiming,
    validated: Mapping[str, np.ndarray],
) -> Rebuild:
    """``rebuild`` with its latency; one that broke down, or answers otherwise than the kept build, has none."""
    if isinstance(result, SlipwayError):
        return rebuild
    try:
        _check_same_answers(validated, result.outputs)
    except RejectedError:
        return rebuild
    times = {"latency_p50_ms": result.timing.latency.p50_ms, "latency_ratio": kept.speedup_over(result)}
    return rebuild.model_copy(update=times)


def _measured(session: SessionTimings) -> list[ParticipantTiming]:
    return [one for one in (session.reference, *session.candidates) if isinstance(one, ParticipantTiming)]


def _kept(objects: ObjectStore, trace: Path) -> Artifact:
    """The trace in the object store, compressed where it is large; its viewers read both."""
    if trace.stat().st_size <= LARGEST_PLAIN_TRACE_BYTES:
        return objects.put(trace, "trace.json")
    compressed = trace.with_suffix(".json.gz")
    with trace.open("rb") as plain, gzip.open(compressed, "wb") as packed:
        shutil.copyfileobj(plain, packed)
    return objects.put(compressed, "trace.json.gz")


def _timed(
    result: ParticipantTiming | SlipwayError,
    champion: ParticipantTiming | SlipwayError | None,
    validated: Mapping[str, np.ndarray],
    kept: Mapping[Path | None, Artifact],
) -> Timed | Failure:
    try:
        if isinstance(result, SlipwayError):
            raise result
        _check_same_answers(validated, result.outputs)
    except SlipwayError as error:
        return failure("benchmark", error)
    over = result.speedup_over(champion) if isinstance(champion, ParticipantTiming) else None
    return Timed(
        timing=result.timing,
        over_champion=over,
        no_champion=str(champion) if isinstance(champion, SlipwayError) else None,
        profile=result.profile,
        trace=kept.get(result.trace),
    )


def _check_same_answers(validated: Mapping[str, np.ndarray], timed: Mapping[str, np.ndarray]) -> None:
    """Accuracy and speed are of one piece only if the timed session answers as the validated one did."""
    size = min(len(next(iter(outputs.values()))) for outputs in (validated, timed))
    cosine = compare_outputs(first(validated, size), first(timed, size)).cosine
    if cosine < SAME_ANSWER_COSINE:
        raise RejectedError(
            f"the timed session answers differently from the validated one (cosine {cosine:.4f}, at least "
            f"{SAME_ANSWER_COSINE} wanted): the engine's result depends on its thread count"
        )
