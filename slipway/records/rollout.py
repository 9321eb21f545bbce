"""A rollout as it is stored: which engines take part, how far it came, and the readings it was decided on."""

from __future__ import annotations

from enum import StrEnum

from slipway.records.base import Decision, Record


class Phase(StrEnum):
    """Where a rollout stands; the last four are ends."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    WAITING = "WaitingForApproval"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"

    @property
    def ended(self) -> bool:
        """Whether nothing follows, but for the baking of a promoted engine."""
        return self in {Phase.PROMOTED, Phase.ROLLED_BACK, Phase.INCONCLUSIVE, Phase.ERROR}


class Contender(Record):
    """A version of the registered engine, and the sha256 of its file."""

    version: str
    digest: str


class Reading(Record):
    """What one gate concluded from all requests so far: PASS lets promote, FAIL rolls back, INCONCLUSIVE goes on."""

    gate: str
    decision: Decision
    figures: dict[str, float | None]


class StepStart(Record):
    """What had been seen of both arms when a step began, as numbers of requests."""

    champion_answers: int = 0
    challenger_answers: int = 0
    champion_errors: int = 0
    challenger_errors: int = 0
    champion_refused: int = 0
    challenger_refused: int = 0


class Rollout(Record):
    """A challenger beside the champion of ``name`` (``NAME.TARGET``): its phase, and the share it has of the traffic.

    ``step`` counts the steps of the policy from 0; -1 before the first. ``policy_json`` holds the canary's parameters
    with which it was started: a changed ``params.yaml`` changes nothing in its middle. ``steps_begun`` holds a start of
    every step so far. Times are seconds since 1970.
    """

    rollout_id: str
    name: str
    champion: Contender
    challenger: Contender
    policy_json: str
    phase: Phase = Phase.PENDING
    step: int = -1
    steps_begun: tuple[StepStart, ...] = ()
    share_percent: float = 0.0
    reasons: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    started_s: float
    phase_since_s: float
