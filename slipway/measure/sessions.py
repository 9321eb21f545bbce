"""The interleaved timing session: reference and candidates take turns, one process at a time, on the same CPUs."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from slipway.decisions.budget import survivors
from slipway.errors import BadInputError, NotMeasuredError
from slipway.measure.host import HostWatch
from slipway.measure.loadgen import require_loadgen
from slipway.measure.plan import LEAST_ROUNDS, Participant, ParticipantTiming, SessionTimings, TimingPlan
from slipway.measure.turns import Turns
from slipway.records import Interval

__all__ = ["Participant", "ParticipantTiming", "SessionTimings", "TimingPlan", "run_session"]

# Rough shares of a session's time at which preparation ends and at which the rounds end.
PREPARED, TIMED = 0.4, 0.8
_HALVED_AFTER = (2, 4, 8)


def run_session(
    reference: Participant,
    candidates: Sequence[Participant],
    plan: TimingPlan,
    cpus: Collection[int],
    traces: Path | None = None,
    told: Callable[[float], None] = lambda _: None,
) -> SessionTimings:
    """Time all participants on ``cpus`` in one session.

    All workers are started first; from then on exactly one at a time has work, and an engine open. Each participant,
    the reference too, takes the thread count of the plan that gives it the lowest medians. In each round every
    participant that still needs samples opens its engine anew and runs one block; the reference runs in every round, so
    that each block has a partner. The order is random, and that of every second round is the one before backwards. With
    a plan that halves, candidates that are clearly slower leave after 2, 4 and 8 rounds. At the end throughput is
    measured, LoadGen runs if the plan asks for it, and each is profiled, with a trace in the directory ``traces``, if
    that is given.
    No process is left behind, however this ends. ``told`` hears, now and then, which share is done.

    Raises:
        BadInputError: the plan asks for more threads than there are ``cpus``, or for LoadGen, which is not installed.
        InfrastructureError: the reference failed; without it there is nothing to compare with.
    """
    needed = max(*plan.threads, min(plan.threads) * min(plan.streams))
    if needed > len(cpus):
        raise BadInputError(f"{needed} threads on {len(cpus)} CPUs would time waiting; ask for fewer threads")
    if plan.scenario is not None:
        require_loadgen()
    host = HostWatch(cpus)
    with ExitStack() as running:
        first = Turns(reference, plan, is_reference=True)
        others = [Turns(candidate, plan) for candidate in candidates]
        everyone = [first, *others]
        for one in everyone:
            running.enter_context(one)
            one.start(cpus)
        for one in everyone:
            one.wait_until_ready()
        for done, one in enumerate(everyone, start=1):
            one.prepare(block_seconds=plan.budget_seconds / sum(other.rounds_wanted for other in everyone))
            told(PREPARED * done / len(everyone))
        _run_rounds(first, others, plan, lambda share: told(PREPARED + share * (TIMED - PREPARED)))
        for done, one in enumerate(everyone, start=1):
            _run_rest(one, len(cpus), traces and traces / f"{done}.json")
            told(TIMED + (1 - TIMED) * done / len(everyone))
    host_load = host.so_far()
    return SessionTimings(
        reference=first.timing(first, host_load),
        candidates=tuple(one.error or one.timing(first, host_load) for one in others),
    )


def _run_rounds(reference: Turns, candidates: Sequence[Turns], plan: TimingPlan, told: Callable[[float], None]) -> None:
    shuffler = random.Random(plan.seed)  # noqa: S311 - an order of turns, no secret
    deadline = time.monotonic() + plan.budget_seconds
    order = [reference, *candidates]
    for turn in itertools.count():
        if plan.halving and turn in _HALVED_AFTER:
            _halve(reference, candidates, turn)
        order = [one for one in order if one is reference or (one.error is None and not one.has_enough())]
        if all(one.has_enough() for one in order):
            return
        if turn >= LEAST_ROUNDS and time.monotonic() > deadline:
            return
        told(min(one.share() for one in order))
        if turn % 2:
            order.reverse()
        else:
            shuffler.shuffle(order)
        for one in order:
            one.run_block(turn)


def _halve(reference: Turns, candidates: Sequence[Turns], turn: int) -> None:
    """Let those leave that the rounds so far show to be slower than the better half."""
    rivals = [one for one in candidates if one.error is None and not (one.participant.stays or one.participant.brief)]
    if not rivals:
        return
    speedups = [one.speedup_over(reference) for one in rivals]
    counts = [one.participant.counts for one in rivals]
    kept = survivors(speedups, counts)
    counting = [index for index, told in enumerate(counts) if told] or range(len(rivals))
    best = max(counting, key=lambda index: speedups[index].value)
    for index, one in enumerate(rivals):
        if index not in kept:
            reason = (
                f"not measured in full: dropped after {turn} rounds at {_told(speedups[index])} against the "
                f"{_told(speedups[best])} of {rivals[best].participant.name}; release without --budget to measure it"
            )
            one.leave(NotMeasuredError(reason))


def _told(speedup: Interval) -> str:
    return f"{speedup.lower:.3g}x to {speedup.upper:.3g}x"


def _run_rest(one: Turns, cpus: int, trace: Path | None) -> None:
    one.take_outputs()
    one.measure_throughput(cpus)
    one.run_scenario()
    if trace is not None:
        one.profile(trace)
    one.finish()
