"""The nightly look at what serves: every champion on today's data and this host, held against its own release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.states import Completed, Failed

from flows.place import project_of_the_worker
from flows.prefect_ui import heard, unharmed
from slipway.config import Params, load_params
from slipway.decisions.gates import combine
from slipway.errors import InfrastructureError, SlipwayError, first_line
from slipway.records import Audit, AuditResult, Decision, Evidence, Hardware, Validated, Verdict
from slipway.reports.audit import audit_markdown
from slipway.steps.audit import (
    Standing,
    check_source,
    conclude_audit,
    find_standing,
    fresh_evidence,
    session_options,
)
from slipway.steps.benchmark import Timings
from slipway.steps.build import reference_of
from slipway.steps.judge import Context
from slipway.steps.progress import Event, tell
from slipway.stores.registry import parse_model_uri
from slipway.wiring import (
    Workshop,
    check_threads,
    code_revision,
    host_hardware,
    project_file,
    project_params,
    workshop,
)
from tasks.audit import follow_up, open_champion, record_audit, send_to_worker
from tasks.benchmark import UnsettledError, benchmark
from tasks.data import check_data
from tasks.fetch import fetch
from tasks.reference import evaluate_reference
from tasks.validate import validate


@dataclass(frozen=True)
class _Champion:
    """Whose turn it is: the champion of ``name``, which the file ``file`` of the project describes."""

    file: str
    params: Params
    target: str

    @property
    def name(self) -> str:
        return f"{parse_model_uri(self.params.model)[0]}.{self.target}"


@flow(name="audit")
def audit(params: str | None = None, pool: str | None = None) -> State[AuditResult]:
    """Audit the champions of every model of the project, or of the one that the file ``params`` describes.

    Those of targets with a work pool are sent to it; a worker of the pool ``pool`` audits those of that pool alone. It
    moves no alias: what does not hold any more is told, and a new release is asked for.

    Raises:
        SlipwayError: it could not start, or the audit of a champion broke down.
    """
    with chdir(project_of_the_worker()), temporary_settings({PREFECT_TASKS_REFRESH_CACHE: True}), heard():
        try:
            shop = workshop()
            result = AuditResult(audits=tuple(_audited(shop, one, pool) for one in _champions(shop.root, params, pool)))
        except SlipwayError as error:
            return Failed(message=str(error), data=error)
        unharmed(create_markdown_artifact, audit_markdown(result), key="audit", description="Audit of the champions")
    told = "; ".join(f"{one.name}: {one.decision.verdict}" for one in result.audits)
    if result.verdict is Verdict.ERROR:
        broken = [one for one in result.audits if one.decision.verdict is Verdict.ERROR]
        reasons = "; ".join(f"{one.name}: {', '.join(one.decision.reasons)}" for one in broken)
        return Failed(message=told, data=InfrastructureError(f"an audit broke down: {reasons}"))
    return Completed(name=result.verdict.value, message=told, data=result)


def _champions(root: Path, params: str | None, pool: str | None) -> Iterator[_Champion]:
    for file in project_params(root).values() if params is None else (project_file(root, Path(params)),):
        described = load_params(file)
        for name, target in described.targets.items():
            if pool is None or target.work_pool == pool:
                yield _Champion(str(file.relative_to(root)), described, name)


def _audited(shop: Workshop, champion: _Champion, pool: str | None) -> Audit:
    """The audit of one champion, recorded, and with what follows from it; whatever goes wrong is its verdict."""
    found = Audit(name=champion.name, at=datetime.now(UTC), decision=_skipped("no champion yet"))
    try:
        hardware = host_hardware()
        standing = find_standing(shop.registry, champion.name, hardware)
        elsewhere = champion.params.targets[champion.target].work_pool
        if standing is not None and elsewhere not in {None, pool}:
            sent = send_to_worker(str(elsewhere), champion.file, f"{flow_run.id}:{champion.file}:{elsewhere}")
            found = found.model_copy(update={"decision": sent})
        elif standing is not None:
            found = found.model_copy(update={"version": standing.version, "recorded": standing.recorded})
            fresh = None if standing.stale else _measured(shop, champion, standing, hardware)
            found = conclude_audit(standing, champion.params, fresh, found.at)
            found = follow_up(shop.registry, found, champion.file)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other champions are audited
        found = _broken(found, error)
    return _recorded(shop, found)


def _measured(shop: Workshop, champion: _Champion, standing: Standing, hardware: Hardware) -> Evidence:
    """All that a release would measure on the champion's file, measured now."""
    params, target = champion.params, champion.params.targets[champion.target]
    check_threads(champion.target, target)
    source = fetch(shop.registry, shop.objects, shop.registry.resolve(standing.recorded.model_uri), params.trust_pickle)
    check_source(standing, source)
    data = check_data(params.data.test, None, source.signature).test
    revision = code_revision(shop.root)
    context = Context(model=source, data=data, calibration=None, code_revision=revision, hardware=hardware)
    built = open_champion(shop.registry, shop.objects, standing, hardware)
    reference, accuracy, threads = (
        reference_of(source, champion.target),
        params.accuracy.measured(),
        min(target.threads),
    )
    predictions = evaluate_reference(shop.objects, reference, data, accuracy, threads)
    validated = validate(shop.objects, built.spec, built, data, predictions, accuracy, threads)
    timings = Timings(by_digest={})
    if isinstance(validated, Validated):
        settings = (champion.target, session_options(target, standing.recorded), params.latency, hardware, data)
        try:
            timings = benchmark(shop.objects, *settings, reference, [(built, validated)], None)
        except UnsettledError as error:
            timings = error.timings
    return fresh_evidence(context, standing, params, built, validated, timings.of(built), timings.reference_profile)


def _recorded(shop: Workshop, found: Audit) -> Audit:
    if found.version is not None:
        try:
            record_audit(shop.registry, found)
        except Exception as error:  # noqa: BLE001
            found = _broken(found, error)
    reason = next(iter(found.decision.reasons), "")
    tell(Event(found.name, "audit", found.decision.verdict, reason))
    return found


def _broken(found: Audit, error: Exception) -> Audit:
    reason = str(error) if isinstance(error, SlipwayError) else first_line(error)
    gates = found.gates | {"audit": Decision(verdict=Verdict.ERROR, reasons=(reason,))}
    return found.model_copy(update={"gates": gates, "decision": combine(gates)})


def _skipped(reason: str) -> Decision:
    return Decision(verdict=Verdict.SKIPPED, reasons=(reason,))
