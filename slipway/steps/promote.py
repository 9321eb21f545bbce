"""Move the champion alias, or refuse to: the evidence is read again from the registry and every gate re-checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from slipway.config import ApprovalParams
from slipway.decisions.approval import (
    APPROVED,
    Approval,
    Terms,
    Word,
    counted,
    enough,
    identified,
    in_time,
    terms,
)
from slipway.decisions.promotion import may_promote
from slipway.decisions.staleness import stale
from slipway.errors import RejectedError
from slipway.records import Decision, Hardware, Verdict
from slipway.records.base import Record
from slipway.stores.approvals import approvals_of, terms_of, terms_tags, wait_of, waiting_tags
from slipway.stores.registry import (
    CHALLENGER,
    CHAMPION,
    RegisteredEngine,
    Registry,
    decision_tags,
    evidence_sha256,
    utc_now,
)

NOBODY_ASKED = ApprovalParams()


class Today(Record):
    """What a person's word is held against: the test data's md5 and the host that would serve, where known here.

    ``approval`` is what the parameters at hand ask for; what was recorded with the version counts as well.
    """

    data_md5: str | None = None
    host: Hardware | None = None
    approval: ApprovalParams = NOBODY_ASKED


def promote(
    registry: Registry,
    name: str,
    version: str,
    current_data_md5: str | None,
    here: Hardware | None = None,
    asked: ApprovalParams = NOBODY_ASKED,
) -> Decision:
    """Make ``version`` of the registered engine ``name`` the champion, if its recorded evidence allows it.

    ``here`` is the host that would serve it; None where that is not known. Where people have to approve, they must
    have done so already.
    """
    engine = registry.version(name, version)
    if CHAMPION in engine.aliases:
        return _finished(registry, engine)
    today = Today(data_md5=current_data_md5, host=here, approval=asked)
    decision = _may_promote(registry, engine, today, override=False)
    if decision.verdict is not Verdict.PASS:
        return decision
    held_to = _held_to(engine, asked)
    decision = _about(engine, enough(_approvers(engine, held_to), held_to))
    if decision.verdict is not Verdict.PASS:
        return decision
    return _promoted(registry, engine, None, None)


def approve(registry: Registry, name: str, version: str, word: Word, today: Today) -> Decision:
    """As ``promote``, on people's word; this also lifts an earlier rejection or rollback of the version.

    INCONCLUSIVE where others have to approve as well: then the word is kept.
    """
    engine = registry.version(name, version)
    if CHAMPION in engine.aliases:
        return _finished(registry, engine)
    decision, approvers = _heard(registry, engine, word, today)
    if decision.verdict is not Verdict.PASS:
        return decision
    return _promoted(registry, engine, ", ".join(approvers), word.reason)


def consent(registry: Registry, name: str, version: str, word: Word, today: Today) -> Decision:
    """Keep a person's yes to a version in the middle of its rollout, which promotes it once every gate has passed."""
    engine = registry.version(name, version)
    decision, approvers = _heard(registry, engine, word, today)
    if decision.verdict is not Verdict.PASS:
        return decision
    for key, value in decision_tags(APPROVED, ", ".join(approvers), word.reason).items():
        registry.tag(name, version, key, value)
    told = f"{name} version {version} is approved; its rollout promotes it once every gate has passed"
    return Decision(verdict=Verdict.PASS, reasons=(told,))


def await_approval(
    registry: Registry, name: str, version: str, current_data_md5: str | None, asked: ApprovalParams = NOBODY_ASKED
) -> Decision:
    """Make ``version`` the challenger, which people approve or reject, if its recorded evidence allows it.

    One that waited too long begins its wait anew: this is the release that was asked for.
    """
    decision = challenge(registry, name, version, current_data_md5, None, asked)
    engine = registry.version(name, version)
    if decision.verdict is not Verdict.PASS or CHALLENGER not in engine.aliases:
        return decision
    held_to = _held_to(engine, asked)
    if not (_in_time(engine, held_to) or _has_enough(engine, held_to)):
        _tag(registry, engine, waiting_tags(held_to, registry.user()))
    by = f" by {held_to.persons} persons" if held_to.persons > 1 else ""
    within = f", within {held_to.expires_hours:g} hours" if held_to.expires_hours is not None else ""
    reason = f"{name} version {version} waits for approval{by}{within}: slipway approve {name} {version} --reason TEXT"
    return Decision(verdict=Verdict.PASS, reasons=(reason,))


def challenge(
    registry: Registry,
    name: str,
    version: str,
    current_data_md5: str | None,
    here: Hardware | None = None,
    asked: ApprovalParams = NOBODY_ASKED,
) -> Decision:
    """Make ``version`` the challenger if its recorded evidence allows it, as it would have to for a promotion."""
    engine = registry.version(name, version)
    if CHAMPION in engine.aliases:
        return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the champion already",))
    today = Today(data_md5=current_data_md5, host=here, approval=asked)
    decision = _may_promote(registry, engine, today, override=False)
    if decision.verdict is not Verdict.PASS:
        return decision
    held_to = _held_to(engine, asked)
    waits = CHALLENGER in engine.aliases and wait_of(engine).since is not None
    # Before the alias: from then on people see it, and are held to this.
    _tag(registry, engine, terms_tags(held_to) if waits else waiting_tags(held_to, registry.user()))
    if CHALLENGER not in engine.aliases:
        registry.set_challenger(name, version)
    return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the challenger",))


def reject(registry: Registry, name: str, version: str, approver: str, reason: str) -> Decision:
    """Record a person's no, which clears every yes; the version cannot be promoted by a release any more.

    Raises:
        RejectedError: the version serves as champion; rolling back is what takes it away.
    """
    engine = registry.version(name, version)
    if CHAMPION in engine.aliases:
        raise RejectedError(
            f"{name} version {version} is the champion; use `slipway rollback` to take it out of service"
        )
    registry.reject(name, version, approver, reason)
    return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is rejected: {reason}",))


def _heard(registry: Registry, engine: RegisteredEngine, word: Word, today: Today) -> tuple[Decision, tuple[str, ...]]:
    """Keep a person's yes if it may count; whether enough have said it by now, and who."""
    held_to = _held_to(engine, today.approval)
    held_to = held_to.model_copy(update={"persons": max(1, held_to.persons)})
    decision = _may_promote(registry, engine, today, override=True)
    if decision.verdict is Verdict.PASS:
        decision = _about(engine, in_time(wait_of(engine), held_to, utc_now()))
    if decision.verdict is Verdict.PASS:
        decision = _about(engine, identified(word, wait_of(engine), held_to))
    if decision.verdict is not Verdict.PASS:
        return decision, ()
    given = Approval(**dict(word), when=_given_at(engine), evidence=evidence_sha256(engine.evidence))
    registry.approve(engine.name, engine.version, given)
    engine = registry.version(engine.name, engine.version)  # somebody else may have approved a moment ago
    approvers = _approvers(engine, held_to)
    return _about(engine, enough(approvers, held_to)), approvers


def _given_at(engine: RegisteredEngine) -> datetime:
    """Now, and after what was read of the version: another host's clock may be ahead of this one's."""
    begin = wait_of(engine).counts_from
    return utc_now() if begin is None else max(utc_now(), begin + timedelta.resolution)


def _held_to(engine: RegisteredEngine, asked: ApprovalParams) -> Terms:
    return terms(asked, terms_of(engine.tags))


def _approvers(engine: RegisteredEngine, held_to: Terms) -> tuple[str, ...]:
    return counted(approvals_of(engine.tags), wait_of(engine), evidence_sha256(engine.evidence), held_to)


def _in_time(engine: RegisteredEngine, held_to: Terms) -> bool:
    return in_time(wait_of(engine), held_to, utc_now()).verdict is Verdict.PASS


def _has_enough(engine: RegisteredEngine, held_to: Terms) -> bool:
    """Whether a rollout that is under way has been consented to."""
    return enough(_approvers(engine, held_to), held_to).verdict is Verdict.PASS


def _about(engine: RegisteredEngine, decision: Decision) -> Decision:
    """The decision, with what it is about in its reasons."""
    told = tuple(f"{engine.name} version {engine.version}: {reason}" for reason in decision.reasons)
    return Decision(verdict=decision.verdict, reasons=told)


def _tag(registry: Registry, engine: RegisteredEngine, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if engine.tags.get(key) != value:
            registry.tag(engine.name, engine.version, key, value)


def _may_promote(registry: Registry, engine: RegisteredEngine, today: Today, *, override: bool) -> Decision:
    return may_promote(
        engine.evidence,
        registered_digest=engine.digest,
        current_data_md5=today.data_md5,
        decision_tag=registry.earlier_decision(engine.name, engine.digest),
        override=override,
        stale=None if today.host is None else stale(engine.evidence, today.host),
    )


def _promoted(registry: Registry, engine: RegisteredEngine, approver: str | None, reason: str | None) -> Decision:
    registry.promote(engine.name, engine.version, approver, reason)
    told = f"{engine.name} version {engine.version} is the champion now"
    return Decision(verdict=Verdict.PASS, reasons=(told,))


def _finished(registry: Registry, engine: RegisteredEngine) -> Decision:
    """What is left to do for the champion: a promotion that was cut short leaves an alias behind."""
    if CHALLENGER in engine.aliases:
        registry.promote(engine.name, engine.version, None, None)
    told = f"{engine.name} version {engine.version} is the champion already"
    return Decision(verdict=Verdict.PASS, reasons=(told,))
