"""Whether enough people have approved a version, and whether it has not waited for them too long."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from slipway.config import ApprovalParams
from slipway.decisions.promotion import REFUSING_TAGS
from slipway.records import Decision, Verdict
from slipway.records.base import Record

APPROVED, PROMOTED = "approved", "promoted"


class Word(Record):
    """What a person says; ``authenticated`` where the registry itself knows that it is that person who says it."""

    person: str
    reason: str
    authenticated: bool = False


class Approval(Word):
    """A person's yes to a version with the evidence of this sha256, and when it was given."""

    when: datetime
    evidence: str


class Terms(Record):
    """What an approval of a version is held to: how many people, and for how long it may wait (None: for ever)."""

    persons: int
    expires_hours: float | None = None


class Wait(Record):
    """What a version's tags tell of its wait: since when it is challenger and by whom, and what was decided when."""

    challenger: bool
    since: datetime | None = None
    by: str | None = None
    decision: str | None = None
    decided_at: datetime | None = None

    @property
    def ended_at(self) -> datetime | None:
        """When the version was decided on; None while it waits.

        A promotion that was cut short leaves a challenger, which goes on waiting with the approvals that it has.
        """
        ended = self.decision in REFUSING_TAGS or (self.decision == PROMOTED and not self.challenger)
        return self.decided_at if ended else None

    @property
    def counts_from(self) -> datetime | None:
        """Approvals that were given before count for nothing: it was decided on since, or released once more."""
        return max(filter(None, (self.since, self.ended_at)), default=None)


def terms(asked: ApprovalParams, recorded: Terms | None) -> Terms:
    """The stricter of what the parameters at hand ask for and what was recorded when the version became challenger.

    0 persons where neither asks for any.
    """
    persons, hours = (asked.persons, asked.expires_hours) if asked.required else (0, None)
    if recorded is None:
        return Terms(persons=persons, expires_hours=hours)
    shortest = min((one for one in (hours, recorded.expires_hours) if one is not None), default=None)
    return Terms(persons=max(persons, recorded.persons), expires_hours=shortest)


def counted(approvals: Iterable[Approval], wait: Wait, evidence: str, held_to: Terms) -> tuple[str, ...]:
    """Who has approved this evidence since it was last decided on, each person once, the first first.

    Where more than one person is asked for, a name that nobody has checked counts for nothing: it could be anybody's.
    Nor does the account that made the version challenger: it asks, and as that of releases it is no one person's.
    """
    begin = wait.counts_from
    valid = [
        one
        for one in approvals
        if one.evidence == evidence
        and (begin is None or one.when > begin)
        and (held_to.persons <= 1 or (one.authenticated and one.person != wait.by))
    ]
    return tuple(dict.fromkeys(one.person for one in sorted(valid, key=lambda one: one.when)))


def enough(persons: tuple[str, ...], held_to: Terms) -> Decision:
    """PASS when as many people as asked for have approved, else INCONCLUSIVE: more can."""
    told = f"{len(persons)} of {held_to.persons} approvals"
    if len(persons) >= held_to.persons:
        return Decision(verdict=Verdict.PASS, reasons=(told,))
    other = f"another person than {' and '.join(persons)}" if persons else "a person"
    return Decision(verdict=Verdict.INCONCLUSIVE, reasons=(f"{told}; {other} must approve",))


def in_time(wait: Wait, held_to: Terms, now: datetime) -> Decision:
    """FAIL when the version has waited longer than it may; a wait ends with what was decided on the version."""
    hours = held_to.expires_hours
    if hours is None or wait.since is None or (wait.ended_at is not None and wait.ended_at >= wait.since):
        return Decision(verdict=Verdict.PASS, reasons=("it does not wait for approval, or may for ever",))
    if now <= wait.since + timedelta(hours=hours):
        return Decision(verdict=Verdict.PASS, reasons=(f"waits since {stamp(wait.since)}, at most {hours:g} hours",))
    since = f"it has waited for approval since {stamp(wait.since)}"
    return Decision(verdict=Verdict.FAIL, reasons=(f"{since}, longer than the {hours:g} hours it may; release again",))


def identified(word: Word, wait: Wait, held_to: Terms) -> Decision:
    """FAIL where several persons are asked for, and nobody has checked who this one is, or it is who asks."""
    if held_to.persons <= 1 or (word.authenticated and word.person != wait.by):
        return Decision(verdict=Verdict.PASS, reasons=(f"{word.person} approves",))
    if word.authenticated:
        reason = f"{word.person} made it challenger, and is none of the {held_to.persons} persons who must approve"
        return Decision(verdict=Verdict.FAIL, reasons=(f"{reason}; let others approve, each as themselves",))
    reason = (
        f"{held_to.persons} persons must approve, and nobody has checked that {word.person} is one; let each of them "
        "run `slipway approve` with their own name and password, against an MLflow server that asks for these"
    )
    return Decision(verdict=Verdict.FAIL, reasons=(reason,))


def stamp(when: datetime) -> str:
    """UTC to the second, as ISO 8601."""
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")
