"""Prefect's runs and events as the decision reads them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Scheduled

from slipway.decisions.reconciliation import RunState
from slipway.errors import InfrastructureError
from tasks import prefect_api
from tasks import release_runs as module
from tasks.release_runs import DATA_LABEL, release_runs, requests

URI = "models:/tiny@staging"


class Prefect:
    def __init__(self, *runs: FlowRun, events: list[Any] | None = None) -> None:
        self.runs, self.events = list(runs), events or []

    def __enter__(self) -> Prefect:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_flow_runs(self, limit: int, offset: int, **_: Any) -> list[FlowRun]:
        return self.runs[offset : offset + limit]

    def read_events(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(events=self.events)


def run(model: str | None, state: Any, **more: Any) -> FlowRun:
    return FlowRun.model_validate(
        {"flow_id": "0" * 32, "name": "r", "parameters": {"model": model}, "state": state, **more}
    )


def answering(monkeypatch: pytest.MonkeyPatch, prefect: Prefect) -> None:
    monkeypatch.setattr(prefect_api, "get_client", lambda **_: prefect)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (Scheduled(), RunState.GOING),
        (Pending(), RunState.GOING),
        (Completed(name="FAIL"), RunState.COMPLETED),
        (Failed(), RunState.FAILED),
        (Crashed(), RunState.FAILED),
        (Cancelled(), RunState.CANCELLED),
        (None, RunState.GOING),
    ],
)
def test_what_became_of_a_run(monkeypatch: pytest.MonkeyPatch, state: Any, told: RunState) -> None:
    answering(monkeypatch, Prefect(run("models:/tiny/2", state, labels={DATA_LABEL: "aa11.dir"})))
    (found,) = release_runs(URI, "3")

    assert (found.version, found.state) == ("2", told)
    assert found.data_md5 == (None if told is RunState.GOING else "aa11.dir")


def test_the_version_behind_what_a_run_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [None, URI, "models:/tiny/2", "models:/tiny@prod", "models:/other/2", "nonsense"]
    answering(monkeypatch, Prefect(*(run(model, Failed()) for model in given)))

    assert [found.version for found in release_runs(URI, "3")] == ["3", "3", "2"]


def test_all_pages_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    answering(monkeypatch, Prefect(*(run(f"models:/tiny/{number}", Failed()) for number in range(5))))

    assert len(release_runs(URI, "3")) == 5


def test_requests_that_name_a_version_count(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [SimpleNamespace(payload={"model": uri}, occurred=None) for uri in ("models:/tiny/2", URI)]
    answering(monkeypatch, Prefect(events=events))

    assert [one.version for one in requests("tiny")] == ["2"]


def test_a_server_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: Any) -> Any:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(prefect_api, "get_client", away)
    with pytest.raises(InfrastructureError, match="Prefect does not tell its runs: ConnectError: refused"):
        requests("tiny")
