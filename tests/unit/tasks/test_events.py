from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from slipway.errors import BadInputError, InfrastructureError
from slipway.records import ReleaseRequest
from slipway.triggers.decide import RolloutRequest
from tasks.events import ask_for_release, ask_for_rollout, holds_event

RELEASE = ReleaseRequest(model="models:/digits/3", params="params.yaml", reason="it was registered")


class Prefect(ThreadingHTTPServer):
    """The routes of Prefect's server that are used, with the events that it holds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.posted: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.status: int | None = None


class _Answer(BaseHTTPRequestHandler):
    server: Prefect

    def do_GET(self) -> None:
        self._send(404, True)

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/events/filter":
            self.server.asked.append(content)
            wanted = content["filter"]["id"]["id"]
            self._send(200, {"events": [one for one in self.server.posted if one["id"] in wanted]})
        else:
            assert self.path == "/api/events"
            if self.server.status is None:
                self.server.posted += content
            self._send(self.server.status or 204, None)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _send(self, status: int, content: object) -> None:
        body = b"" if status == 204 else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def prefect() -> Iterator[Prefect]:
    with Prefect() as server:
        answering = threading.Thread(target=server.serve_forever, args=(0.01,))
        answering.start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_address[1]}/api"}):
            yield server
        server.shutdown()
        answering.join()


def test_a_release_is_asked_for_by_an_event(prefect: Prefect) -> None:
    event_id = ask_for_release(RELEASE, "a key")
    (event,) = prefect.posted
    assert abs(datetime.now(UTC) - datetime.fromisoformat(event.pop("occurred"))) < timedelta(minutes=1)
    assert event == {
        "id": str(event_id),
        "event": "slipway.release.requested",
        "resource": {"prefect.resource.id": "slipway.model.digits", "prefect.resource.name": "digits"},
        "payload": {"model": "models:/digits/3", "params": "params.yaml", "reason": RELEASE.reason, "fresh": False},
    }
    assert event_id == uuid5(NAMESPACE_URL, "a key")


def test_the_same_key_makes_one_event_and_another_key_another(prefect: Prefect) -> None:
    """However much later: Prefect itself knows an event's id for minutes only."""
    first = ask_for_release(RELEASE, "a key")
    assert ask_for_release(RELEASE, "a key") == first
    assert len(prefect.posted) == 1
    assert ask_for_release(RELEASE, "another") != first
    assert len(prefect.posted) == 2


def test_an_event_dated_by_a_clock_that_is_ahead_is_found_too(prefect: Prefect) -> None:
    ask_for_release(RELEASE, "a key")
    occurred = prefect.asked[0]["filter"]["occurred"]
    assert datetime.fromisoformat(occurred["until"]) > datetime.now(UTC) + timedelta(hours=1)
    assert datetime.fromisoformat(occurred["since"]) < datetime.now(UTC) - timedelta(days=30)


def test_a_rollout_is_asked_for_by_an_event_of_its_engine(prefect: Prefect) -> None:
    request = RolloutRequest(name="digits", target="x86", version="3", params="params.yaml", reason="a challenger")
    event_id = ask_for_rollout(request, "a key")
    (event,) = prefect.posted
    assert event["event"] == "slipway.rollout.requested"
    assert event["resource"]["prefect.resource.id"] == "slipway.engine.digits.x86"
    assert event["payload"] == request.model_dump()
    assert holds_event(event_id)


def test_a_server_that_is_down_is_told(prefect: Prefect) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(
            InfrastructureError, match=r"^Prefect does not answer .*; check that its server is up and PREFECT_"
        ),
    ):
        ask_for_release(RELEASE, "a key")


def test_a_refusal_is_no_outage(prefect: Prefect) -> None:
    """What is refused once is refused again, while an outage ends."""
    prefect.status = 422
    with pytest.raises(BadInputError, match=r"^Prefect refuses what it was asked, to release models:/digits/3: "):
        ask_for_release(RELEASE, "a key")
    prefect.status = 500
    with pytest.raises(InfrastructureError):
        ask_for_release(RELEASE, "a key")
