"""The time that a release may take: what may still begin, and what is left for timing."""

from __future__ import annotations

import time
from collections.abc import Sequence

from slipway.config import AccuracyParams, Objective
from slipway.decisions.gates import accuracy_gate
from slipway.errors import NotMeasuredError
from slipway.records import Built, Record, Validated, Verdict

# Preparing candidates may begin until then; the rest is for timing them, without which nothing can be chosen.
PREPARATION_SHARE = 0.6


class Budget(Record):
    """A release's ``seconds`` from its ``start``, which is Unix time."""

    start: float
    seconds: float

    def require_time(self, step: str) -> None:
        """Return if ``step`` may still begin.

        Raises:
            NotMeasuredError: the share of the budget that preparing candidates may take is spent.
        """
        spent, share = time.time() - self.start, PREPARATION_SHARE * self.seconds
        if spent > share:
            raise NotMeasuredError(
                f"not measured: {spent:.0f} s of the budget of {self.seconds:g} s were spent before {step}, which may "
                f"begin within the first {share:.0f} s; release again, since what is done is cached, or give more time"
            )

    def left_seconds(self) -> float:
        """What is left, at least 1 s."""
        return max(self.start + self.seconds - time.time(), 1.0)


def require_time(budget: Budget | None, step: str) -> None:
    """`Budget.require_time`, where there is a budget."""
    if budget is not None:
        budget.require_time(step)


def is_worth_timing(policy: AccuracyParams, validated: Validated, budget: Budget | None) -> bool:
    """Whether a candidate takes part in the timing: not one that was given up; under a budget, none that failed."""
    if validated.accuracy.given_up:
        return False
    return budget is None or accuracy_gate(policy, validated.accuracy).verdict is not Verdict.FAIL


class TimeLimit(Record):
    """How timing is cut short under a budget: after ``seconds``, by ``halving`` where the objective is a latency.

    ``promising`` are the digests of those whose accuracy passes: no other may push one of them out.
    """

    seconds: float
    halving: bool
    promising: tuple[str, ...]


def time_limit(
    budget: Budget | None, policy: AccuracyParams, objective: Objective, candidates: Sequence[tuple[Built, Validated]]
) -> TimeLimit | None:
    """What is left of the budget for timing, where there is one."""
    if budget is None:
        return None
    passing = [b for b, v in candidates if accuracy_gate(policy, v.accuracy).verdict is Verdict.PASS]
    return TimeLimit(
        seconds=budget.left_seconds(),
        halving=objective in {"latency_p50_ms", "latency_p99_ms"},
        promising=tuple(built.artifact.digest for built in passing),
    )
