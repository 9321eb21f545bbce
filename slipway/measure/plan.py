"""What a timing session is asked for, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from slipway.errors import SlipwayError
from slipway.measure.arrays import Array
from slipway.measure.latency import SAMPLES_FOR_P99, Nanoseconds
from slipway.measure.speedup import paired_speedup
from slipway.records import Interval, Profile, Timing

Rounds: TypeAlias = Mapping[int, Nanoseconds]
LEAST_ROUNDS = 2  # a paired interval needs two


@dataclass(frozen=True)
class TimingPlan:
    """How to time. Latency is told at the first of ``batch``, throughput at each.

    In every round an engine is opened anew and runs one block of calls. A block is as many calls as spread ``samples``
    over ``rounds``, at least 16 and about ``block_ms`` long, fewer only where the budget would not last for ``rounds``.
    Rounds go on until each participant has ``samples`` and ``rounds``, or ``budget_seconds`` are spent on them (at
    least two are run); start, warm-up and what follows the rounds come on top. With ``halving``, those leave
    early whose speed-up in latency at the first of ``batch`` is clearly lower than that of the better half: it ranks by
    nothing else, so that it is only for whoever looks for a latency. Throughput is measured for ``throughput_seconds``
    under each setting, in three windows. ``scenario`` adds a run of MLPerf LoadGen; a server is sent ``server_per_s``
    queries. ``timeout_seconds`` bounds any one answer.
    """

    threads: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = (1,)
    streams: tuple[int, ...] = (1,)
    samples: int = SAMPLES_FOR_P99
    rounds: int = 12
    block_ms: float = 25.0
    budget_seconds: float = 300.0
    halving: bool = False
    warm_up_seconds: float = 10.0
    throughput_seconds: float = 0.18
    scenario: Literal["single-stream", "server", "offline"] | None = None
    server_per_s: float | None = None
    timeout_seconds: float = 600.0
    seed: int = 0


@dataclass(frozen=True)
class Participant:
    """A name to tell it by, and the command that loads its engine and runs `slipway.measure.worker.serve`.

    One that ``stays`` is compared with by others, and no halving drops it. One that does not count is dropped like any
    other, but is none of those that the better half is taken from, unless there are no others. One that is ``brief``
    takes part in the first two rounds alone, the fewest that give an interval, and in no halving.
    """

    name: str
    argv: tuple[str, ...]
    stays: bool = False
    counts: bool = True
    brief: bool = False


@dataclass(frozen=True)
class ParticipantTiming:
    """What was measured, and the outputs by name for the batch that was timed, under the settings that were timed.

    ``rounds`` holds the samples of each round that it took part in. ``profile`` is what the runtime's own profiler
    told, with its ``trace``; where it cannot tell, ``no_profile`` says why.
    """

    timing: Timing
    outputs: dict[str, Array]
    rounds: Rounds
    profile: Profile | None = None
    trace: Path | None = None
    no_profile: str | None = None

    def speedup_over(self, other: ParticipantTiming) -> Interval:
        """How many times faster than another participant of the same session, paired by round."""
        return speedup_by_round(other.rounds, self.rounds)


@dataclass(frozen=True)
class SessionTimings:
    """The reference's timing, its speed-up being 1, and in their order each candidate's, or why it has none."""

    reference: ParticipantTiming
    candidates: tuple[ParticipantTiming | SlipwayError, ...]


def speedup_by_round(reference: Rounds, candidate: Rounds) -> Interval:
    """`paired_speedup` over the rounds in which both took part."""
    shared = sorted(reference.keys() & candidate.keys())
    return paired_speedup([reference[turn] for turn in shared], [candidate[turn] for turn in shared])
