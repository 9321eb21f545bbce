"""Which runs count as dead by what Prefect has heard of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.events.filters import EventFilter
from prefect.states import Pending, Running

from tasks import prefect_api
from tasks.silent_runs import crash_silent_runs

NOW = datetime.now(UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


class Prefect:
    """A server that has one run and its heartbeats, by how long ago they were sent."""

    def __init__(self, state: Any, ago: timedelta, *beats: timedelta, writes_events: bool = True) -> None:
        state.timestamp = NOW - ago
        self.run = FlowRun.model_validate({"flow_id": "0" * 32, "name": "r", "parameters": {}, "state": state})
        self.beats = [NOW - beat for beat in beats]
        self.writes_events = writes_events
        self.crashed: list[UUID] = []

    def __enter__(self) -> Prefect:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return [self.run]

    def read_events(self, asked: EventFilter, limit: int) -> Any:
        assert limit == 1
        assert asked.occurred is not None
        if asked.event is None:
            return SimpleNamespace(events=["its own start"] if self.writes_events else [])
        assert asked.resource is not None
        assert asked.resource.id == [f"prefect.flow-run.{self.run.id}"]
        return SimpleNamespace(events=[beat for beat in self.beats if asked.occurred.since <= beat])

    def set_flow_run_state(self, run_id: UUID, state: Any, force: bool) -> None:
        assert force
        assert state.is_crashed()
        self.crashed.append(run_id)


@pytest.mark.parametrize(
    ("prefect", "dead"),
    [
        (Prefect(Running(), HOUR, 20 * MINUTE), True),
        (Prefect(Pending(), HOUR), True),
        (Prefect(Running(), HOUR, 20 * MINUTE, MINUTE), False),
        (Prefect(Running(), 2 * MINUTE), False),
        (Prefect(Pending(), 2 * MINUTE), False),
        # Its worker sends no heartbeats.
        (Prefect(Running(), HOUR), False),
        # Nobody's heartbeats are written down now.
        (Prefect(Running(), HOUR, 20 * MINUTE, writes_events=False), False),
    ],
)
def test_a_run_without_a_sign_of_life_is_crashed(monkeypatch: pytest.MonkeyPatch, prefect: Prefect, dead: bool) -> None:
    monkeypatch.setattr(prefect_api, "get_client", lambda **_: prefect)

    assert crash_silent_runs() == (["r"] if dead else [])
    assert prefect.crashed == ([prefect.run.id] if dead else [])
