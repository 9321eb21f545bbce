"""What Prefect knows of the releases that were asked for: the runs of the deployment, and the requests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.runtime import flow_run

from slipway.decisions.reconciliation import Asked, ReleaseRun, RunState
from slipway.errors import BadInputError
from slipway.stores.registry import parse_model_uri
from tasks.events import RELEASE_REQUESTED, RESOURCE
from tasks.prefect_api import prefect

FLOW, DEPLOYMENT = "release-version", "release"
DATA_LABEL = "slipway.data_md5"
UNTOLD = "does not tell its runs"
PAGE, MOST_RUNS = 200, 2000
REMEMBERED = timedelta(days=7)  # as long as Prefect keeps events, unless set otherwise
ENDS = {StateType.COMPLETED: RunState.COMPLETED, StateType.CANCELLED: RunState.CANCELLED}


def label_run(data_md5: str) -> None:
    """Let this flow run tell on which data it releases; outside a run, nothing.

    Raises:
        httpx.HTTPError: Prefect does not answer.
    """
    if flow_run.id is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {DATA_LABEL: data_md5})


def release_runs(uri: str, bearer: str | None) -> list[ReleaseRun]:
    """The runs that released versions of the model that ``uri`` names, the newest first.

    ``uri`` is also what a run released that was given no model, and ``bearer`` the version behind its alias.

    Raises:
        InfrastructureError: Prefect does not answer.
    """
    name, _, alias = parse_model_uri(uri)
    with prefect(UNTOLD) as client:
        found = [(run, run.parameters.get("model") or uri) for run in _all_runs(client)]
    runs = []
    for run, released in found:
        try:
            of, version, by = parse_model_uri(str(released))
        except BadInputError:  # it failed for that
            continue
        version = version or (bearer if by == alias else None)
        if of == name and version is not None:
            runs.append(_release_run(run, version))
    return runs


def requests(name: str) -> list[Asked]:
    """The requests to release versions of the registered model ``name``, of the last days.

    Raises:
        InfrastructureError: Prefect does not answer.
    """
    now = datetime.now(UTC)
    wanted = EventFilter(
        event=EventNameFilter(name=[RELEASE_REQUESTED]),
        resource=EventResourceFilter(id=[f"{RESOURCE}.{name}"]),
        # Told in full: by default Prefect leaves out what a clock ahead of its own has dated.
        occurred=EventOccurredFilter(since=now - REMEMBERED, until=now + timedelta(days=1)),
    )
    with prefect(UNTOLD) as client:
        events = client.read_events(wanted, limit=50).events
    asked = []
    for event in events:
        version = parse_model_uri(str(event.payload.get("model")))[1]
        if version is not None:
            asked.append(Asked(version, event.occurred))
    return asked


def _all_runs(client: SyncPrefectClient) -> Iterator[FlowRun]:
    flows, deployments = FlowFilterName(any_=[FLOW]), DeploymentFilterName(any_=[DEPLOYMENT])
    for offset in range(0, MOST_RUNS, PAGE):
        page = client.read_flow_runs(
            flow_filter=FlowFilter(name=flows),
            deployment_filter=DeploymentFilter(name=deployments),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=PAGE,
            offset=offset,
        )
        yield from page
        if len(page) < PAGE:
            return


def _release_run(run: FlowRun, version: str) -> ReleaseRun:
    state = run.state
    created = run.created or datetime.now(UTC)
    label: Any = run.labels.get(DATA_LABEL)
    if state is None or not state.is_final():
        return ReleaseRun(run.name, version, RunState.GOING, created)
    end = ENDS.get(state.type, RunState.FAILED)
    told = f"{state.name}: {state.message}" if state.message else str(state.name)
    return ReleaseRun(run.name, version, end, created, told, label)
