"""Look again at the engine that serves: the same file, under the same session options, on today's data and host."""

from __future__ import annotations

from datetime import datetime

from slipway.config import Params, TargetParams
from slipway.decisions.audit import audit_gates, finding_of
from slipway.decisions.gates import combine
from slipway.decisions.staleness import stale
from slipway.errors import InfrastructureError, TamperedError
from slipway.records import (
    Audit,
    Built,
    Evidence,
    Failure,
    Hardware,
    ModelSource,
    Profile,
    Record,
    Timed,
    Validated,
    Verdict,
)
from slipway.steps.benchmark import find_champion
from slipway.steps.judge import Context, judge
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry


class Standing(Record):
    """The champion of ``name`` as it is recorded, and why it is stale on this host, if it is."""

    name: str
    version: str
    recorded: Evidence
    stale: tuple[str, ...]


def find_standing(registry: Registry, name: str, hardware: Hardware) -> Standing | None:
    """The champion of ``name``, which serves on ``hardware``; None where none does."""
    version = registry.champion(name)
    if version is None:
        return None
    recorded = registry.version(name, version).evidence
    return Standing(name=name, version=version, recorded=recorded, stale=stale(recorded, hardware))


def open_champion(registry: Registry, objects: ObjectStore, standing: Standing, hardware: Hardware) -> Built:
    """The champion's very file, fetched from the registry and held against its digest.

    Raises:
        TamperedError: its bytes differ from the evidence's digest.
        InfrastructureError: another version has become champion meanwhile.
    """
    built = find_champion(registry, objects, standing.name, hardware, [])
    if built is None or built.artifact.digest != standing.recorded.digest:
        raise InfrastructureError(
            f"{standing.name} has had another champion than version {standing.version} since this audit began; "
            "audit it again"
        )
    return built


def check_source(standing: Standing, source: ModelSource) -> None:
    """Refuse another reference than the one that the champion was held against.

    Raises:
        TamperedError: the bytes of the model version have changed since.
    """
    recorded = standing.recorded
    if source.digest != recorded.model_digest:
        raise TamperedError(
            f"{source.uri} should have sha256 {recorded.model_digest[:12]}, as when {standing.name} version "
            f"{standing.version} was made from it, found {source.digest[:12]}; register the changed model as a new "
            "version and release that"
        )


def session_options(target: TargetParams, recorded: Evidence) -> TargetParams:
    """What a timing of the champion depends on: the threads and the batch that were recorded, whatever is set now."""
    settings = target.measured()
    if recorded.timing is None:
        return settings
    latency, reference = recorded.timing.latency, recorded.timing.reference_latency
    batches = dict.fromkeys((latency.batch, *settings.batch))
    return settings.model_copy(
        update={"threads": tuple(sorted({latency.threads, reference.threads})), "batch": tuple(batches)}
    )


def fresh_evidence(
    context: Context,
    standing: Standing,
    params: Params,
    built: Built,
    validated: Validated | Failure,
    timed: Timed | Failure,
    reference_profile: Profile | None,
) -> Evidence:
    """What was measured on the champion now, judged as a release would judge it."""
    recorded = standing.recorded
    judged = judge(context, recorded.spec, params, built, validated, timed, reference_profile)
    # The file is what it was: what it was made with is not of today.
    made_with = {"calibration_md5": recorded.calibration_md5, "training_md5": recorded.training_md5}
    return judged.model_copy(update=made_with)


def conclude_audit(standing: Standing, params: Params, fresh: Evidence | None, at: datetime) -> Audit:
    """The verdict on the champion, and where it is FAIL, by what the same finding is known again."""
    recorded, reasons = standing.recorded, standing.stale
    gates = audit_gates(params, recorded, fresh, reasons)
    decision = combine(gates)
    data_md5 = fresh.data_md5 if fresh else recorded.data_md5
    failed = decision.verdict is Verdict.FAIL
    return Audit(
        name=standing.name,
        at=at,
        decision=decision,
        gates=gates,
        version=standing.version,
        recorded=recorded,
        fresh=fresh,
        data_md5=data_md5,
        stale=reasons,
        finding=finding_of(standing.name, standing.version, data_md5, gates, reasons) if failed else None,
    )
