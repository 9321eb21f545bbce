"""Automations: what Prefect does by itself when something happens, or when something no longer does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from infra.provision.things import Change
from slipway.errors import BadInputError
from slipway.records import Verdict
from tasks.events import ENGINE_RESOURCE, RELEASE_REQUESTED, RESOURCE, ROLLOUT_REQUESTED
from tasks.release_runs import DEPLOYMENT, FLOW

if TYPE_CHECKING:
    from uuid import UUID

RELEASE, ROLLOUT, RECONCILE = f"{FLOW}/{DEPLOYMENT}", "rollout/rollout", "reconcile/reconcile"
HEARTBEAT = "prefect.flow-run.heartbeat"
# Five heartbeats, as PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 sends them: an API that is away for two minutes is no death.
SILENT = timedelta(seconds=150)
# An event bears its state's name, and ours are named after the verdict.
ENDED = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", *(verdict.value for verdict in Verdict))
RELEASE_PARAMETERS = ("model", "params", "fresh", "reason")
ROLLOUT_PARAMETERS = ("name", "target", "version", "params")

Find = Callable[[str], "UUID"]


def automations(find: Find, flows: Iterable[str]) -> dict[str, Callable[[], AutomationCore]]:
    """The automations by name; ``find`` tells the id of a deployment, ``flows`` are those whose runs are watched."""
    return {
        "slipway: release what was asked for": lambda: _core(
            "Turns a request (a webhook's, of reconcile, of audit) into one run of the deployment release.",
            _on(RELEASE_REQUESTED, RESOURCE),
            RunDeployment(deployment_id=find(RELEASE), parameters=_payload(RELEASE_PARAMETERS)),
        ),
        "slipway: a run whose worker died is crashed": lambda: _core(
            f"Without it such a run stays Running for ever. A run counts as dead {SILENT.seconds} s after its last "
            "heartbeat; workers need PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30.",
            _silence(flows),
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {SILENT.seconds} s: its worker was killed or cut off",
            ),
        ),
        "slipway: a release that crashed is looked at again": lambda: _core(
            "Runs reconcile, which asks again for what was not released.",
            _crash_of(FLOW),
            RunDeployment(deployment_id=find(RECONCILE)),
        ),
        "slipway: roll out a new challenger": lambda: _core(
            "Starts a canary where the gateway runs. Disabled until somebody enables it: not every host has a gateway.",
            _on(ROLLOUT_REQUESTED, ENGINE_RESOURCE),
            RunDeployment(deployment_id=find(ROLLOUT), parameters=_payload(ROLLOUT_PARAMETERS)),
            enabled=False,
        ),
    }


def ensure_automation(client: SyncPrefectClient, name: str, wanted: AutomationCore) -> Change:
    """Make the automation or bring it up to date; whether it is enabled is the people's to say once it is there.

    Raises:
        BadInputError: several automations bear the name.
    """
    wanted = wanted.model_copy(update={"name": name})
    match client.read_automations_by_name(name):
        case []:
            client.create_automation(wanted)
            return Change.CREATED
        case [found]:
            if meaning(found) == meaning(wanted):
                return Change.THERE
            _update(client, found.id, wanted.model_copy(update={"enabled": found.enabled}))
            return Change.CHANGED
        case several:
            raise BadInputError(
                f"Prefect has {len(several)} automations named {name!r}, and each of them acts; delete all but one: "
                "`prefect automation delete --id ID`"
            )


def meaning(automation: AutomationCore) -> dict[str, Any]:
    """What an automation does, however the server spells it."""
    told = automation.model_dump(include={"description", "trigger", "actions"})
    told["trigger"].pop("id", None)
    return told


def deployment_id(client: SyncPrefectClient, name: str) -> UUID:
    """The id of the deployment that an automation runs.

    Raises:
        BadInputError: there is none.
    """
    try:
        return client.read_deployment_by_name(name).id
    except ObjectNotFound:
        raise BadInputError(
            f"Prefect has no deployment {name}, which this would run; declare it in prefect.yaml"
        ) from None


def _core(description: str, trigger: EventTrigger, action: ActionTypes, enabled: bool = True) -> AutomationCore:
    return AutomationCore(name="", description=description, enabled=enabled, trigger=trigger, actions=[action])


def _update(client: SyncPrefectClient, identity: UUID, automation: AutomationCore) -> None:
    # Prefect's own call leaves out what was not set, such as the type of an action, which the server asks for.
    body = automation.model_dump(mode="json", exclude={"owner_resource"})
    client.request("PUT", "/automations/{id}", path_params={"id": identity}, json=body)


def _on(event: str, resource: str) -> EventTrigger:
    """At each such event, and at once: with a time to wait for more, one that comes out of order would be dropped."""
    return EventTrigger(
        expect={event},
        match={"prefect.resource.id": f"{resource}.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _silence(flows: Iterable[str]) -> EventTrigger:
    """For each run that was heard once, and then neither again nor of its end."""
    return EventTrigger(
        after={HEARTBEAT},
        expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in ENDED)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": sorted(flows)},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENT,
    )


def _crash_of(flow: str) -> EventTrigger:
    return EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": flow},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _payload(names: Iterable[str]) -> dict[str, Any]:
    """Parameters out of the event's payload, each of the type that it has there: true is no word."""
    return {
        name: {
            "__prefect_kind": "json",
            "value": {"__prefect_kind": "jinja", "template": f"{{{{ event.payload.{name} | tojson }}}}"},
        }
        for name in names
    }
