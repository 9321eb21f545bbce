"""Whether a registered version may become champion: the rule checked again just before the alias moves."""

from __future__ import annotations

from slipway.decisions.gates import combine
from slipway.records import Decision, Evidence, Verdict

REFUSING_TAGS = ("rejected", "rolled back")


def may_promote(
    evidence: Evidence,
    *,
    registered_digest: str,
    current_data_md5: str | None,
    decision_tag: str | None,
    override: bool = False,
    stale: tuple[str, ...] | None = None,
) -> Decision:
    """PASS when the evidence passed, every gate in it too, and file, data, host and earlier decisions do not object.

    ``registered_digest`` is the sha256 of the file that the registry would serve, ``current_data_md5`` the test data's
    today and ``stale`` why the engine is stale where it would serve (None of either: unknown here, not checked),
    ``decision_tag`` what was decided on this file before. ``override`` sets aside such an earlier decision, and nothing
    else.
    """
    return combine(
        {
            "evidence": _concluded(evidence.decision.verdict),
            "gates": combine(evidence.gates),
            "file": _same_file(evidence.digest, registered_digest),
            "data": _same_data(evidence.data_md5, current_data_md5),
            "host": _fresh(stale),
            "earlier decision": _earlier_decision(decision_tag, override),
        }
    )


def _concluded(verdict: Verdict) -> Decision:
    told = "which allows it" if verdict is Verdict.PASS else "and only PASS is promoted; release the model again"
    return Decision(verdict=verdict, reasons=(f"the release concluded {verdict}, {told}",))


def _same_file(measured: str | None, registered: str) -> Decision:
    if measured == registered:
        return _passed(f"the registered file is the measured one, sha256 {registered}")
    return _failed(f"registered sha256 is {registered}, the evidence is about {measured}; release the model again")


def _same_data(measured: str, current: str | None) -> Decision:
    if current is None:
        return _passed(f"measured on md5 {measured}; today's data is not known here")
    if measured == current:
        return _passed(f"the data is still md5 {current}")
    return _failed(f"the data is now md5 {current}, the evidence is about {measured}; release the model again")


def _fresh(stale: tuple[str, ...] | None) -> Decision:
    if stale is None:
        return _passed("the host that would serve it is not known here")
    if not stale:
        return _passed("the engine was built and measured on a host as this one is today")
    return _failed(f"the engine is stale: {'; '.join(stale)}; release the model again")


def _earlier_decision(tag: str | None, override: bool) -> Decision:
    if tag not in REFUSING_TAGS:
        return _passed("none against this file")
    if override:
        return _passed(f"this file was {tag}, which was overridden")
    return _failed(f"this file was {tag}, and only `slipway approve` overrides that")


def _passed(reason: str) -> Decision:
    return Decision(verdict=Verdict.PASS, reasons=(reason,))


def _failed(reason: str) -> Decision:
    return Decision(verdict=Verdict.FAIL, reasons=(reason,))
