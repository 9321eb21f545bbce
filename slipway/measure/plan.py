"""What a timing session is asked for, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from slipway.errors import SlipwayError
from slipway.measure.arrays import Array
from slipway.measure.latency import SAMPLES_FOR_P99, Nanoseconds, paired_speedup
from slipway.records import Interval, Timing

Rounds: TypeAlias = Mapping[int, Nanoseconds]


@dataclass(frozen=True)
class TimingPlan:
    """How to time. Latency is told at the first of ``batch``, throughput at each.

    A block is about ``block_ms`` and at least 16 calls long, fewer only where the budget would not last for ``rounds``.
    Rounds go on until each participant has ``samples`` and ``rounds``, or ``budget_seconds`` are spent on them (at
    least two are run); loading, warm-up and throughput come on top. ``timeout_seconds`` bounds any one answer.
    """

    threads: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = (1,)
    samples: int = SAMPLES_FOR_P99
    rounds: int = 15
    block_ms: float = 25.0
    budget_seconds: float = 300.0
    warm_up_seconds: float = 10.0
    throughput_seconds: float = 0.3
    timeout_seconds: float = 600.0
    seed: int = 0


@dataclass(frozen=True)
class Participant:
    """A name to tell it by, and the command that loads its engine and runs `slipway.measure.worker.serve`."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class ParticipantTiming:
    """What was measured, and the outputs by name for the batch that was timed, under the settings that were timed.

    ``rounds`` holds the samples of each round that it took part in.
    """

    timing: Timing
    outputs: dict[str, Array]
    rounds: Rounds

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
