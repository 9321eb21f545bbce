"""What follows from an audit: a request for a release, the record, and a worker of another pool sent to audit there."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL

from slipway.decisions.audit import ask_for_release
from slipway.decisions.reconciliation import RunState
from slipway.decisions.staleness import rebuild_command
from slipway.records import Audit, Built, Decision, Hardware, ReleaseRequest, Verdict
from slipway.steps.audit import Standing
from slipway.steps.audit import open_champion as open_step
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry, parse_model_uri
from tasks import events
from tasks.policy import RETRIED, TOLD
from tasks.prefect_api import ensure_pooled, prefect
from tasks.release_runs import release_runs
from tasks.worker_pool import unreachable

FLOW = "audit"
# By module path, so that the worker's own installation is what runs; a deployment that is there already is left alone.
ENTRYPOINT = "flows.audit.audit"
REASONS_TOLD = 3


@task(name="open", task_run_name="open {standing.name}", cache_policy=NO_CACHE, **RETRIED, **TOLD)
def open_champion(registry: Registry, objects: ObjectStore, standing: Standing, hardware: Hardware) -> Built:
    """The champion's very file, fetched from the registry and held against its digest."""
    return open_step(registry, objects, standing, hardware)


@task(name="follow-up", task_run_name="follow-up {audit.name}", cache_policy=NO_CACHE, **RETRIED, **TOLD)
def follow_up(registry: Registry, audit: Audit, params: str) -> Audit:
    """``audit`` with what follows from it: a release was asked for, as the file ``params`` describes it, or why not.

    Raises:
        InfrastructureError: Prefect or the registry does not answer; the next audit asks.
    """
    if audit.finding is None or audit.recorded is None:
        return audit
    if PREFECT_API_URL.value() is None:
        by_hand = f"no Prefect server is set that a release could be asked of; run `{rebuild_command(audit.recorded)}`"
        return audit.model_copy(update={"follow_up": by_hand})
    running = _release_on_its_way(audit.recorded.model_uri)
    asking = ask_for_release(registry.requested_release(audit), running, audit.at)
    told = asking.reasons[0]
    if asking.verdict is not Verdict.PASS:
        return audit.model_copy(update={"follow_up": told})
    why = f"audit of {audit.name} version {audit.version}: {'; '.join(audit.decision.reasons[:REASONS_TOLD])}"
    request = ReleaseRequest(model=audit.recorded.model_uri, params=params, reason=why, fresh=True)
    key = f"audit:{audit.name}:{audit.version}:{audit.data_md5}:{audit.at:%Y-%m-%d}"
    return audit.model_copy(update={"request": str(events.ask_for_release(request, key)), "follow_up": told})


def _release_on_its_way(uri: str) -> str | None:
    """The name of a run that releases the model version ``uri`` now, or is about to."""
    version = parse_model_uri(uri)[1]
    runs = release_runs(uri, None)
    return next((run.name for run in runs if run.version == version and run.state is RunState.GOING), None)


@task(name="record", task_run_name="record {audit.name}", cache_policy=NO_CACHE, **RETRIED, **TOLD)
def record_audit(registry: Registry, audit: Audit) -> str:
    """The run in the registry that keeps the audit."""
    return registry.record_audit(audit)


def send_to_worker(pool: str, params: str, key: str) -> Decision:
    """Let a worker of ``pool`` audit the targets that the file ``params`` of its checkout gives to it; nobody waits.

    SKIPPED in any case, with the flow run that audits them, or why no worker can. The same ``key`` sends it once.

    Raises:
        InfrastructureError: Prefect stopped answering.
    """
    if reason := unreachable(pool):
        return Decision(verdict=Verdict.SKIPPED, reasons=(reason,))
    with prefect(f"did not take the audit for pool {pool!r}") as client:
        ensure_pooled(client, FLOW, pool, ENTRYPOINT)
        parameters = {"params": params, "pool": pool}
        run: Any = run_deployment(
            f"{FLOW}/{pool}", parameters=parameters, idempotency_key=key, timeout=0, as_subflow=False
        )
    reason = f"its hardware is elsewhere: flow run {run.name!r} of deployment {FLOW}/{pool} audits it there"
    return Decision(verdict=Verdict.SKIPPED, reasons=(reason,))
