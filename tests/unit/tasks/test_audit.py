from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from slipway.decisions.reconciliation import ReleaseRun, RunState
from slipway.errors import InfrastructureError
from slipway.records import Audit, Decision, ReleaseRequest, Verdict
from tasks import audit as module
from tasks.audit import follow_up, record_audit, send_to_worker
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.registered import register_engine

NIGHT = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
NAME = "digits.x86"
EVENT = UUID(int=7)


class Bus:
    """Takes requests, and knows the runs of releases."""

    def __init__(self) -> None:
        self.taken: list[tuple[ReleaseRequest, str]] = []
        self.runs: list[ReleaseRun] = []
        self.down = False

    def ask(self, request: ReleaseRequest, key: str) -> UUID:
        if self.down:
            raise InfrastructureError("Prefect does not answer")
        self.taken.append((request, key))
        return EVENT


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    found = Bus()
    monkeypatch.setattr(module.events, "ask_for_release", found.ask)
    monkeypatch.setattr(module, "release_runs", lambda uri, bearer: found.runs)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        yield found


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    found = FakeRegistry()
    register_engine(found, tmp_path, NAME)
    found.promote(NAME, "1", None, None)
    return found


def failed(registry: FakeRegistry, at: datetime = NIGHT) -> Audit:
    """An audit with a finding."""
    return Audit(
        name=NAME,
        at=at,
        decision=Decision(verdict=Verdict.FAIL, reasons=("accuracy: 0.02 too much", "speed: slower", "c", "d")),
        version="1",
        recorded=registry.version(NAME, "1").evidence,
        data_md5="m.dir",
        finding="f" * 64,
    )


def test_a_finding_asks_for_a_fresh_release_of_the_champions_own_source(registry: FakeRegistry, bus: Bus) -> None:
    found = follow_up.fn(registry, failed(registry), "params/digits.yaml")

    assert (found.request, found.follow_up) == (str(EVENT), "a new release was asked for")
    ((request, key),) = bus.taken
    assert request == ReleaseRequest(
        model="models:/digits/1",
        params="params/digits.yaml",
        reason="audit of digits.x86 version 1: accuracy: 0.02 too much; speed: slower; c",
        fresh=True,
    )
    assert key == "audit:digits.x86:1:m.dir:2026-11-20"


def test_without_a_finding_nothing_follows(registry: FakeRegistry, bus: Bus) -> None:
    good = failed(registry).model_copy(update={"finding": None})

    assert follow_up.fn(registry, good, "params.yaml") == good
    assert bus.taken == []


def test_the_same_night_asks_once_and_another_night_again_until_a_release_has_ended(
    registry: FakeRegistry, bus: Bus
) -> None:
    record_audit.fn(registry, follow_up.fn(registry, failed(registry), "params.yaml"))

    again = follow_up.fn(registry, failed(registry), "params.yaml")
    assert (again.request, len(bus.taken)) == (None, 1)

    tomorrow = follow_up.fn(registry, failed(registry, NIGHT.replace(day=21)), "params.yaml")
    assert tomorrow.request == str(EVENT)
    assert (
        tomorrow.follow_up
        == "a release was asked for on 2026-11-20, and none has ended since, so it was asked for again"
    )
    assert bus.taken[1][1] != bus.taken[0][1], "Prefect takes an id once"


@pytest.mark.parametrize(
    ("version", "state", "asks"),
    [
        ("1", RunState.GOING, False),
        ("1", RunState.COMPLETED, True),
        ("2", RunState.GOING, True),
    ],
)
def test_a_release_of_that_version_that_is_under_way_is_waited_for(
    registry: FakeRegistry, bus: Bus, version: str, state: RunState, asks: bool
) -> None:
    bus.runs = [ReleaseRun("busy-bee", version, state, NIGHT)]

    found = follow_up.fn(registry, failed(registry), "params.yaml")

    assert (found.request is not None) == asks
    assert ("run busy-bee" in str(found.follow_up)) != asks


def test_a_request_that_prefect_did_not_take_is_not_recorded_as_asked(registry: FakeRegistry, bus: Bus) -> None:
    bus.down = True

    with pytest.raises(InfrastructureError):
        follow_up.fn(registry, failed(registry), "params.yaml")


def test_without_a_server_the_command_is_told(registry: FakeRegistry, bus: Bus) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        found = follow_up.fn(registry, failed(registry), "params.yaml")

    assert found.request is None
    assert found.follow_up is not None
    assert found.follow_up.endswith("run `slipway release models:/digits/1 --target x86`")
    assert bus.taken == []


def test_a_pool_without_a_worker_is_skipped_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "unreachable", lambda pool: f"work pool {pool!r} has no worker online: start one")

    assert send_to_worker("board", "params.yaml", "key") == Decision(
        verdict=Verdict.SKIPPED, reasons=("work pool 'board' has no worker online: start one",)
    )
