"""Move the champion alias, or refuse to: the evidence is read again from the registry and every gate re-checked."""

from __future__ import annotations

from slipway.decisions.promotion import may_promote
from slipway.decisions.staleness import stale
from slipway.errors import RejectedError
from slipway.records import Decision, Hardware, Verdict
from slipway.stores.registry import CHALLENGER, CHAMPION, RegisteredEngine, Registry, decision_tags


def promote(
    registry: Registry, name: str, version: str, current_data_md5: str | None, here: Hardware | None = None
) -> Decision:
    """Make ``version`` of the registered engine ``name`` the champion, if its recorded evidence allows it.

    ``here`` is the host that would serve it; None where that is not known.
    """
    return _promote(registry, name, version, current_data_md5, None, None, here)


def approve(
    registry: Registry,
    name: str,
    version: str,
    current_data_md5: str | None,
    approver: str,
    reason: str,
    here: Hardware | None = None,
) -> Decision:
    """As ``promote``, on a person's word; this also lifts an earlier rejection or rollback of the version."""
    return _promote(registry, name, version, current_data_md5, approver, reason, here)


def _promote(
    registry: Registry,
    name: str,
    version: str,
    current_data_md5: str | None,
    approver: str | None,
    reason: str | None,
    here: Hardware | None,
) -> Decision:
    engine = registry.version(name, version)
    if CHAMPION in engine.aliases:
        if CHALLENGER in engine.aliases:  # a promotion that was cut short
            registry.promote(name, version, None, None)
        return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the champion already",))
    decision = _may_promote(registry, engine, current_data_md5, override=approver is not None, here=here)
    if decision.verdict is Verdict.PASS:
        registry.promote(name, version, approver, reason)
        return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the champion now",))
    return decision


def _may_promote(
    registry: Registry,
    engine: RegisteredEngine,
    current_data_md5: str | None,
    *,
    override: bool,
    here: Hardware | None = None,
) -> Decision:
    return may_promote(
        engine.evidence,
        registered_digest=engine.digest,
        current_data_md5=current_data_md5,
        decision_tag=registry.earlier_decision(engine.name, engine.digest),
        override=override,
        stale=None if here is None else stale(engine.evidence, here),
    )


def await_approval(registry: Registry, name: str, version: str, current_data_md5: str | None) -> Decision:
    """Make ``version`` the challenger, which a person approves or rejects, if its recorded evidence allows it."""
    decision = challenge(registry, name, version, current_data_md5)
    if decision.verdict is not Verdict.PASS or CHALLENGER not in registry.version(name, version).aliases:
        return decision
    reason = f"{name} version {version} waits for approval: slipway approve {name} {version} --reason TEXT"
    return Decision(verdict=Verdict.PASS, reasons=(reason,))


def challenge(
    registry: Registry, name: str, version: str, current_data_md5: str | None, here: Hardware | None = None
) -> Decision:
    """Make ``version`` the challenger if its recorded evidence allows it, as it would have to for a promotion."""
    engine = registry.version(name, version)
    if CHAMPION in engine.aliases:
        return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the champion already",))
    decision = _may_promote(registry, engine, current_data_md5, override=False, here=here)
    if decision.verdict is not Verdict.PASS:
        return decision
    if CHALLENGER not in engine.aliases:
        registry.set_challenger(name, version)
    return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the challenger",))


def consent(
    registry: Registry,
    name: str,
    version: str,
    current_data_md5: str | None,
    approver: str,
    reason: str,
    here: Hardware | None = None,
) -> Decision:
    """Keep a person's yes to a version in the middle of its rollout, which promotes it once every gate has passed."""
    engine = registry.version(name, version)
    decision = _may_promote(registry, engine, current_data_md5, override=True, here=here)
    if decision.verdict is not Verdict.PASS:
        return decision
    for key, value in decision_tags("approved", approver, reason).items():
        registry.tag(name, version, key, value)
    told = f"{name} version {version} is approved; its rollout promotes it once every gate has passed"
    return Decision(verdict=Verdict.PASS, reasons=(told,))


def reject(registry: Registry, name: str, version: str, approver: str, reason: str) -> Decision:
    """Record a person's no; the version cannot be promoted by a release any more.

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
