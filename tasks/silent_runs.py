"""Releases that Prefect believes to be under way and whose worker is gone, where no automation has noticed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypes
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Crashed

from tasks.prefect_api import prefect
from tasks.release_runs import FLOW

HEARTBEAT = "prefect.flow-run.heartbeat"
# The automation acts after 150 s, and up to 7 minutes later where Redis was restarted: it forgets who was silent then.
SILENT = timedelta(minutes=15)
WRITTEN_DOWN = timedelta(minutes=2)  # Prefect's services write events down every 5 s
MOST_RUNS = 200


def crash_silent_runs() -> list[str]:
    """Set releases that gave no sign of life for a quarter of an hour to Crashed; their names.

    One that never sent a heartbeat counts only while it is started: its worker may send none.

    Raises:
        InfrastructureError: Prefect does not answer.
    """
    now = datetime.now(UTC)
    with prefect("does not tell its runs") as client:
        if not _writes_events(client, now):  # silent is then everybody
            return []
        silent = [run for run in _under_way(client) if _is_silent(client, run, now)]
        why = f"no sign of life for {SILENT.seconds // 60} minutes: its worker is gone"
        for run in silent:
            state: State[None] = Crashed(message=why)
            client.set_flow_run_state(run.id, state, force=True)
    return [run.name for run in silent]


def _under_way(client: SyncPrefectClient) -> list[FlowRun]:
    states = FlowRunFilterState(type=StateTypes(any_=[StateType.PENDING, StateType.RUNNING]))
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(state=states),
        limit=MOST_RUNS,
    )


def _is_silent(client: SyncPrefectClient, run: FlowRun, now: datetime) -> bool:
    if run.state is None or now - run.state.timestamp < SILENT:
        return False
    if _beats(client, run, now - SILENT, now):
        return False
    return run.state.is_pending() or _beats(client, run, run.state.timestamp, now)


def _beats(client: SyncPrefectClient, run: FlowRun, since: datetime, now: datetime) -> bool:
    wanted = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        occurred=_from(since, now),
    )
    return bool(client.read_events(wanted, limit=1).events)


def _writes_events(client: SyncPrefectClient, now: datetime) -> bool:
    """Whether events of just now are there, such as the start of the run that asks."""
    return bool(client.read_events(EventFilter(occurred=_from(now - WRITTEN_DOWN, now)), limit=1).events)


def _from(since: datetime, now: datetime) -> EventOccurredFilter:
    # Told in full: by default Prefect leaves out what a clock ahead of its own has dated.
    return EventOccurredFilter(since=since, until=now + timedelta(days=1))
