"""Move the champion alias, or refuse to: the evidence is read again from the registry and every gate re-checked."""

from __future__ import annotations

from slipway.decisions.promotion import may_promote
from slipway.errors import RejectedError
from slipway.records import Decision, Verdict
from slipway.stores.registry import RegisteredEngine, Registry


def promote(registry: Registry, name: str, version: str, current_data_md5: str | None) -> Decision:
    """Make ``version`` of the registered engine ``name`` the champion, if its recorded evidence allows it."""
    return _promote(registry, name, version, current_data_md5, approver=None, reason=None)


def approve(
    registry: Registry, name: str, version: str, current_data_md5: str | None, approver: str, reason: str
) -> Decision:
    """As ``promote``, on a person's word; this also lifts an earlier rejection or rollback of the version."""
    return _promote(registry, name, version, current_data_md5, approver, reason)


def _promote(
    registry: Registry, name: str, version: str, current_data_md5: str | None, approver: str | None, reason: str | None
) -> Decision:
    engine = registry.version(name, version)
    if "champion" in engine.aliases:
        return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the champion already",))
    decision = _may_promote(registry, engine, current_data_md5, override=approver is not None)
    if decision.verdict is Verdict.PASS:
        registry.promote(name, version, approver, reason)
        return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the champion now",))
    return decision


def _may_promote(
    registry: Registry, engine: RegisteredEngine, current_data_md5: str | None, *, override: bool
) -> Decision:
    return may_promote(
        engine.evidence,
        registered_digest=engine.digest,
        current_data_md5=current_data_md5,
        decision_tag=registry.earlier_decision(engine.name, engine.digest),
        override=override,
    )


def await_approval(registry: Registry, name: str, version: str, current_data_md5: str | None) -> Decision:
    """Make ``version`` the challenger, which a person approves or rejects, if its recorded evidence allows it."""
    engine = registry.version(name, version)
    if "champion" in engine.aliases:
        return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is the champion already",))
    decision = _may_promote(registry, engine, current_data_md5, override=False)
    if decision.verdict is not Verdict.PASS:
        return decision
    registry.set_challenger(name, version)
    reason = f"{name} version {version} waits for approval: slipway approve {name} {version} --reason TEXT"
    return Decision(verdict=Verdict.PASS, reasons=(reason,))


def reject(registry: Registry, name: str, version: str, approver: str, reason: str) -> Decision:
    """Record a person's no; the version cannot be promoted by a release any more.

    Raises:
        RejectedError: the version serves as champion; rolling back is what takes it away.
    """
    engine = registry.version(name, version)
    if "champion" in engine.aliases:
        raise RejectedError(
            f"{name} version {version} is the champion; use `slipway rollback` to take it out of service"
        )
    registry.reject(name, version, approver, reason)
    return Decision(verdict=Verdict.PASS, reasons=(f"{name} version {version} is rejected: {reason}",))
