"""What an audit found on the engine that serves, and what followed from it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from slipway.records.base import Decision, Record, Verdict
from slipway.records.release import Evidence


class RequestedRelease(Record):
    """The releases that were asked for because of one finding, the first and the last, and what came of them.

    ``ended`` is the verdict on the target of a release of that model version that was recorded since the first one was
    asked for, and ``run_id`` its run; None while none was, or none that learnt anything.
    """

    first_asked: datetime
    last_asked: datetime
    ended: Verdict | None = None
    run_id: str | None = None


class Audit(Record):
    """One look at the champion of ``NAME.TARGET``: what is recorded on it, and what was measured on it at ``at``.

    Without a ``version`` nothing was looked at, and the decision tells why; of a ``stale`` engine nothing is measured.
    ``finding`` is the same for the same complaint of another night, ``request`` the id of the event that asked for a
    release, and ``follow_up`` what follows, in words.
    """

    name: str
    at: datetime
    decision: Decision
    gates: dict[str, Decision] = Field(default_factory=dict)
    version: str | None = None
    recorded: Evidence | None = None
    fresh: Evidence | None = None
    data_md5: str | None = None
    stale: tuple[str, ...] = ()
    finding: str | None = None
    request: str | None = None
    follow_up: str | None = None


class AuditResult(Record):
    """All that one run of the audit looked at."""

    audits: tuple[Audit, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict; SKIPPED counts only where nothing else was found."""
        found = {audit.decision.verdict for audit in self.audits}
        order = (Verdict.ERROR, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
        return next((verdict for verdict in order if verdict in found), Verdict.SKIPPED)
