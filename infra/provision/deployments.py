"""Deployments and their schedules. What people set on the server stays: that one is paused, its limit, its version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from infra.provision.declared import Deployment, Schedule, load
from infra.provision.things import Change
from tasks import audit, prefect_api, worker_pool

if TYPE_CHECKING:
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse


POOLED = {worker_pool.FLOW: worker_pool.ENTRYPOINT, audit.FLOW: audit.ENTRYPOINT}


def ensure_pooled(client: SyncPrefectClient, flow: str, pool: str) -> Change:
    """The deployment that a release or an audit would make by itself when it first sends a target to ``pool``."""
    return Change.CREATED if prefect_api.ensure_pooled(client, flow, pool, POOLED[flow]) else Change.THERE


def ensure_deployment(client: SyncPrefectClient, wanted: Deployment) -> Change:
    """Make the deployment, or bring what `prefect.yaml` says of it up to date.

    Prefect's own upsert would replace its schedules, and so start again those that somebody has paused.

    Raises:
        BadInputError: its flow does not exist, or takes no such parameters.
    """
    flow = load(wanted.entrypoint, wanted.parameters)
    fields = owned(wanted, parameter_schema(flow.fn).model_dump_for_openapi())
    try:
        found = client.read_deployment_by_name(f"{flow.name}/{wanted.name}")
    except ObjectNotFound:
        flow_id = client.create_flow_from_name(flow.name)
        schedules = [_created(schedule) for schedule in wanted.schedules]
        client.create_deployment(flow_id, wanted.name, schedules=schedules, **fields)
        return Change.CREATED
    changes = differing(fields, found)
    if changes:
        client.update_deployment(found.id, DeploymentUpdate(**changes))
    changed = [_ensure_schedule(client, found, schedule) for schedule in wanted.schedules]
    return Change.CHANGED if changes or any(changed) else Change.THERE


def owned(wanted: Deployment, schema: dict[str, Any]) -> dict[str, Any]:
    """The fields of a deployment that `prefect.yaml` and the flow's signature decide."""
    # An empty part of the schema is what `prefect deploy` leaves out.
    fields = {
        "entrypoint": wanted.entrypoint,
        "work_pool_name": wanted.work_pool.name,
        "description": wanted.description,
        "tags": list(wanted.tags),
        "parameters": wanted.parameters,
        "parameter_openapi_schema": {name: part for name, part in schema.items() if part or name == "properties"},
        "pull_steps": [],
    }
    variables = wanted.work_pool.job_variables
    return fields if variables is None else fields | {"job_variables": variables}


def differing(fields: dict[str, Any], found: DeploymentResponse) -> dict[str, Any]:
    """Those of the ``fields`` that the server holds otherwise; nothing and an empty list are the same."""
    return {name: value for name, value in fields.items() if (getattr(found, name) or None) != (value or None)}


def _ensure_schedule(client: SyncPrefectClient, deployment: DeploymentResponse, wanted: Schedule) -> bool:
    """Make the schedule, or move it to another time; whether it is active was said once, when it was made."""
    found = next((one for one in deployment.schedules if one.slug == wanted.slug), None)
    if found is None:
        client.create_deployment_schedules(deployment.id, [_created(wanted)])
        return True
    if same_time(wanted, found):
        return False
    client.update_deployment_schedule(deployment.id, found.id, schedule=_cron(wanted), parameters=wanted.parameters)
    return True


def same_time(wanted: Schedule, found: DeploymentSchedule) -> bool:
    """Whether the schedule on the server starts the same runs at the same times."""
    there = found.schedule
    return (
        isinstance(there, CronSchedule)
        and (there.cron, there.timezone or "UTC") == (wanted.cron, wanted.timezone)
        and found.parameters == wanted.parameters
    )


def _created(schedule: Schedule) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=_cron(schedule), active=schedule.active, parameters=schedule.parameters, slug=schedule.slug
    )


def _cron(schedule: Schedule) -> CronSchedule:
    return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
