"""The interleaved timing session: reference and candidates take turns, one process at a time, on the same CPUs."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from slipway.errors import BadInputError
from slipway.measure.plan import Participant, ParticipantTiming, SessionTimings, TimingPlan
from slipway.measure.turns import Turns
from slipway.records import HostLoad

__all__ = ["Participant", "ParticipantTiming", "SessionTimings", "TimingPlan", "run_session"]

# Rough shares of a session's time at which preparation ends and at which the rounds end.
PREPARED, TIMED = 0.4, 0.8
_LEAST_ROUNDS = 2  # a paired interval needs two


def run_session(
    reference: Participant,
    candidates: Sequence[Participant],
    plan: TimingPlan,
    cpus: Collection[int],
    told: Callable[[float], None] = lambda _: None,
) -> SessionTimings:
    """Time all participants on ``cpus`` in one session.

    All workers are started first; from then on exactly one at a time has work. Each participant, the reference too,
    takes the thread count of the plan that gives it the lowest median. In each round every participant that still needs
    samples runs one block, in an order shuffled anew; the reference runs in every round, so that each block has a
    partner. No process is left behind, however this ends. ``told`` hears, now and then, which share is done.

    Raises:
        BadInputError: the plan asks for more threads than there are ``cpus``.
        InfrastructureError: the reference failed; without it there is nothing to compare with.
    """
    if max(plan.threads) > len(cpus):
        raise BadInputError(
            f"{max(plan.threads)} threads on {len(cpus)} CPUs would time waiting; ask for fewer threads"
        )
    load_before, cpu_before = os.getloadavg()[0], _cpu_times()
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
            one.prepare(block_seconds=plan.budget_seconds / (plan.rounds * len(everyone)))
            told(PREPARED * done / len(everyone))
        _run_rounds(first, others, plan, lambda share: told(PREPARED + share * (TIMED - PREPARED)))
        for done, one in enumerate(everyone, start=1):
            one.measure_throughput()
            told(TIMED + (1 - TIMED) * done / len(everyone))
        for one in everyone:
            one.finish()
    host_load = HostLoad(
        load_1m_before=load_before, load_1m_after=os.getloadavg()[0], steal_share=_steal_share(cpu_before, _cpu_times())
    )
    return SessionTimings(
        reference=first.timing(first, host_load),
        candidates=tuple(one.error or one.timing(first, host_load) for one in others),
    )


def _run_rounds(reference: Turns, candidates: Sequence[Turns], plan: TimingPlan, told: Callable[[float], None]) -> None:
    shuffler = random.Random(plan.seed)  # noqa: S311 - an order of turns, no secret
    deadline = time.monotonic() + plan.budget_seconds
    for turn in itertools.count():
        wanting = [one for one in candidates if one.error is None and not one.has_enough()]
        if not wanting and reference.has_enough():
            return
        if turn >= _LEAST_ROUNDS and time.monotonic() > deadline:
            return
        told(min(one.share() for one in [reference, *wanting]))
        order = [reference, *wanting]
        shuffler.shuffle(order)
        for one in order:
            one.run_block(turn)


def _cpu_times() -> list[int]:
    """Ticks of all CPUs: user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5))."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]


def _steal_share(before: Sequence[int], after: Sequence[int]) -> float:
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return spent[7] / max(sum(spent), 1)
