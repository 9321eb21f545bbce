"""What a rollout does next: readings of every gate from what was seen, and the phase that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slipway.config import CanaryParams
from slipway.decisions.canary_gates import (
    ACCURACY,
    DRIFT,
    ERRORS,
    LATENCY,
    Levels,
    Mirrored,
    Tally,
    accuracy_gate,
    drift_gate,
    error_gate,
    latency_gate,
    slo_gate,
)
from slipway.decisions.concurrent import concurrent
from slipway.errors import BadInputError
from slipway.records.base import Decision, Verdict
from slipway.records.rollout import Phase, Reading, Rollout, StepStart

_NEEDED = {LATENCY, ERRORS, ACCURACY}


def _none() -> NDArray[np.float64]:
    return np.empty(0)


@dataclass(frozen=True)
class Seen:
    """All that was seen since a rollout began, in the order of the requests.

    Latencies are those of answered requests, in milliseconds, of both arms while both took traffic; ``baked_ms`` are
    the challenger's since its promotion. ``disagreed``, shape (n,), tells of each mirrored request whether the two
    top-1 answers differ. ``gained``, shape (m,), is correct_challenger - correct_champion, in {-1, 0, 1}, of each
    mirrored request whose label has come; ``labels_missing`` counts those whose label is overdue.
    ``disagreed_labelled`` counts those that have a label and whose answers differ; None where nobody counted, then only
    those where one was right are taken to. ``champion_refused`` and ``challenger_refused`` count what was answered by
    400 to 499 while both took traffic. ``outcomes``, shape (k,), are those of `failing_evidence`. ``drift`` may hold a
    rollout, and never promotes one. ``minutes`` are those since the rollout began.

    Raises:
        BadInputError: a latency is not a number of milliseconds, or a gain is not -1, 0 or 1.
    """

    champion_ms: NDArray[np.float64]
    challenger_ms: NDArray[np.float64]
    champion_errors: int = 0
    challenger_errors: int = 0
    disagreed: NDArray[np.bool_] | None = None
    gained: NDArray[np.float64] | None = None
    labels_missing: int = 0
    drift: Decision | None = None
    baked_ms: NDArray[np.float64] = field(default_factory=_none)
    disagreed_labelled: int | None = None
    minutes: float = 0.0
    champion_refused: int = 0
    challenger_refused: int = 0
    outcomes: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))

    def __post_init__(self) -> None:
        for name in ("champion_ms", "challenger_ms", "baked_ms"):
            latencies = getattr(self, name)
            wrong = int(np.sum(~(np.isfinite(latencies) & (latencies >= 0))))
            if wrong:
                raise BadInputError(f"{name} must be at least 0 and finite, found {wrong} of {len(latencies)} not so")
        if self.gained is not None:
            wrong = int(np.sum((np.abs(self.gained) != 1) & (self.gained != 0)))
            if wrong:
                raise BadInputError(f"gained must be -1, 0 or 1, found {wrong} of {len(self.gained)} not so")

    @property
    def challenger_requests(self) -> int:
        """Those answered and those failed."""
        return len(self.challenger_ms) + len(self.baked_ms) + self.challenger_errors

    def counts(self) -> StepStart:
        """What has been seen of both arms, for the start of a step."""
        return StepStart(
            champion_answers=len(self.champion_ms),
            challenger_answers=len(self.challenger_ms),
            champion_errors=self.champion_errors,
            challenger_errors=self.challenger_errors,
            champion_refused=self.champion_refused,
            challenger_refused=self.challenger_refused,
        )

    def mirrored(self) -> Mirrored:
        """The mirrored requests counted; where labels contradict the comparisons, more answers are taken to differ."""
        gains = _none() if self.gained is None else self.gained
        labelled, gained, lost = len(gains), int(np.sum(gains == 1)), int(np.sum(gains == -1))
        settled = max(gained + lost, self.disagreed_labelled or 0)
        differed = None if self.disagreed is None else max(int(np.sum(self.disagreed)), settled)
        requests = max(labelled, 0 if self.disagreed is None else len(self.disagreed), differed or 0)
        return Mirrored(requests, differed, labelled, gained, lost, settled, self.labels_missing)


def readings(
    policy: CanaryParams, slo_p99_ms: float | None, seen: Seen, steps_begun: Sequence[StepStart] = ()
) -> tuple[Reading, ...]:
    """What each gate concludes now.

    PASS of a gate errs with probability at most alpha over all looks; promotion needs every gate, so that a challenger
    over the margin of any is promoted with at most that. FAIL errs with at most alpha / m at each of the m gates that
    can, so that a challenger within every margin is rolled back with at most alpha. With each of ``steps_begun``, a
    rollout's own, other latencies are `concurrent` and errors are counted anew: each of the policy's steps has its part
    of the alpha / m of these two.
    """
    gates = len(_NEEDED) + (slo_p99_ms is not None)
    whole = Levels(policy.alpha, policy.alpha / gates)
    at_each_step = Levels(policy.alpha, policy.alpha / gates / len(policy.steps))
    odds = [(100 - share) / share for share in policy.steps]
    champion_ms, challenger_ms = concurrent(seen.champion_ms, seen.challenger_ms, odds, steps_begun)
    found = [
        latency_gate(champion_ms, challenger_ms, policy.latency_margin, at_each_step),
        error_gate(*_tallies(seen, steps_begun), policy.error_margin, at_each_step, seen.outcomes),
        accuracy_gate(seen.mirrored(), policy.accuracy_margin, whole),
    ]
    if slo_p99_ms is not None:
        found.append(slo_gate(np.concatenate([seen.challenger_ms, seen.baked_ms]), slo_p99_ms, whole))
    if seen.drift is not None:
        found.append(drift_gate(seen.drift))
    return tuple(found)


def counted_anew(rollout: Rollout, seen: Seen) -> Rollout:
    """``rollout``, whose steps began no later than what is ``seen``.

    Of a log that was lost, or rotated away before a controller resumed, less is seen than when a step began: what comes
    from now on would not count until it had made up for that.
    """
    now = seen.counts().model_dump()
    begun = tuple(
        StepStart(**{name: min(count, now[name]) for name, count in start.model_dump().items()})
        for start in rollout.steps_begun
    )
    return rollout if begun == rollout.steps_begun else rollout.model_copy(update={"steps_begun": begun})


def advance(
    policy: CanaryParams, rollout: Rollout, readings: tuple[Reading, ...], seen: Seen, *, approval_required: bool
) -> Rollout:
    """The rollout after these readings: the same, at the next step, or ended; times are left to the caller.

    A FAIL rolls back from any phase but an end, and from a promotion too: for as long as it bakes is the caller's to
    tell, by asking. A step is over after ``step_requests`` answers of the challenger. After the last one it is
    promoted, or waits for a person, once every gate passes. It ends INCONCLUSIVE, with all traffic back at the
    champion, when the budget is spent before that. A drift that is no PASS, or an ERROR, holds it where it is.
    """
    if rollout.phase.ended and rollout.phase is not Phase.PROMOTED:
        return rollout
    rollout = rollout.model_copy(update={"readings": readings})
    failing = [one for one in readings if one.decision.verdict is Verdict.FAIL]
    if failing:
        return _ended(rollout, Phase.ROLLED_BACK, _told(failing))
    if rollout.phase in {Phase.PROMOTED, Phase.WAITING}:
        return rollout
    if rollout.phase is Phase.PENDING:
        return _step(policy, rollout, 0, seen)
    return _progressed(policy, rollout, seen, approval_required)


def _progressed(policy: CanaryParams, rollout: Rollout, seen: Seen, approval_required: bool) -> Rollout:
    """A progressing rollout whose gates do not fail: on, at its end, or where it was."""
    answers = len(seen.challenger_ms) - (rollout.steps_begun[-1].challenger_answers if rollout.steps_begun else 0)
    last = rollout.step >= len(policy.steps) - 1
    open_ = [one for one in rollout.readings if one.decision.verdict is not Verdict.PASS]
    holding = [one for one in open_ if one.gate == DRIFT or one.decision.verdict is Verdict.ERROR]
    unread = sorted(_NEEDED - {one.gate for one in rollout.readings})
    over = answers >= policy.step_requests and not holding
    if last and over and not open_ and not unread:
        if approval_required:
            reasons = ("every gate passed; a person has to approve", *_told(rollout.readings))
            return rollout.model_copy(update={"phase": Phase.WAITING, "reasons": reasons})
        return _ended(rollout, Phase.PROMOTED, _told(rollout.readings), share_percent=100.0)
    spent = _spent(policy, seen)
    if spent:
        missing = tuple(f"{gate}: was not read" for gate in unread)
        return _ended(rollout, Phase.INCONCLUSIVE, (*spent, *_told(open_), *missing))
    if over and not last:
        return _step(policy, rollout, rollout.step + 1, seen)
    waits = () if over or holding else (f"{answers:,} of {policy.step_requests:,} answers at this step",)
    return rollout.model_copy(update={"reasons": (*waits, *_told(holding or open_))})


def _step(policy: CanaryParams, rollout: Rollout, step: int, seen: Seen) -> Rollout:
    share = policy.steps[step]
    return rollout.model_copy(
        update={
            "phase": Phase.PROGRESSING,
            "step": step,
            "steps_begun": (*rollout.steps_begun, seen.counts()),
            "share_percent": share,
            "reasons": (f"step {step + 1} of {len(policy.steps)}: {share:g}% of the traffic",),
        }
    )


def _ended(rollout: Rollout, phase: Phase, reasons: tuple[str, ...], share_percent: float = 0.0) -> Rollout:
    return rollout.model_copy(update={"phase": phase, "share_percent": share_percent, "reasons": reasons})


def _spent(policy: CanaryParams, seen: Seen) -> tuple[str, ...]:
    """Which of the budgets is used up."""
    spent = []
    if seen.challenger_requests >= policy.max_requests:
        spent.append(f"{seen.challenger_requests:,} requests of max_requests {policy.max_requests:,} did not decide")
    if seen.minutes >= policy.max_minutes:
        requests = f"{seen.challenger_requests:,} requests" if seen.challenger_requests else "no traffic"
        spent.append(
            f"{seen.minutes:,.0f} minutes of max_minutes {policy.max_minutes:g} did not decide, with {requests}"
        )
    return tuple(spent)


def _told(readings: Sequence[Reading]) -> tuple[str, ...]:
    return tuple(f"{one.gate}: {reason}" for one in readings for reason in one.decision.reasons)


def _tallies(seen: Seen, steps_begun: Sequence[StepStart]) -> tuple[Tally, Tally]:
    """Champion's and challenger's requests, errors and refusals since the last step began."""
    start = steps_begun[-1] if steps_begun else StepStart()
    champion_errors = max(0, seen.champion_errors - start.champion_errors)
    challenger_errors = max(0, seen.challenger_errors - start.challenger_errors)
    champion_answers = max(0, len(seen.champion_ms) - start.champion_answers)
    challenger_answers = max(0, len(seen.challenger_ms) - start.challenger_answers) + len(seen.baked_ms)
    return (
        Tally(champion_answers + champion_errors, champion_errors, seen.champion_refused - start.champion_refused),
        Tally(
            challenger_answers + challenger_errors,
            challenger_errors,
            seen.challenger_refused - start.challenger_refused,
        ),
    )
