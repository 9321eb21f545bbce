"""The border to Prefect's API."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from slipway.errors import BadInputError, InfrastructureError
from tasks import prefect_api
from tasks.events import holds_event
from tasks.prefect_api import NotLetInError, check_prefect, ensure_pooled, prefect

STRING = "slipway:long"


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("no\n answer"), RuntimeError("no answer")], ids=["httpx", "the very first call"]
)
def test_what_the_block_meets_is_told_in_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(prefect_api, "get_client", lambda **_: Client())
    told = f"^Prefect did not take it: {type(error).__name__}: no answer; check that its server is up and PREFECT_API"
    with pytest.raises(InfrastructureError, match=told), prefect("did not take it"):
        raise error


class Prefect(ThreadingHTTPServer):
    """A server that answers whoever shows its string, and lets everybody look at its health."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asker = f"Basic {base64.b64encode(STRING.encode()).decode()}"
        let_in = self.path == "/api/health" or self.headers["Authorization"] == asker
        body = json.dumps("3.8.8" if let_in else {"exception_message": "Unauthorized"}).encode()
        if not self.path.startswith("/api/"):  # where its pages are
            let_in, body = True, b"<!DOCTYPE html>"
        self.send_response(200 if let_in else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with Prefect() as running:
        answering = threading.Thread(target=running.serve_forever, args=(0.01,))
        answering.start()
        place = f"127.0.0.1:{running.server_address[1]}"
        with temporary_settings({PREFECT_API_URL: f"http://{place}/api"}):
            yield place
        running.shutdown()
        answering.join()


@pytest.mark.parametrize(
    ("string", "told"),
    [
        (None, "asks who you are; set PREFECT_API_AUTH_STRING"),
        ("slipway:wrong", "does not accept this PREFECT_API_AUTH_STRING; set it"),
    ],
)
def test_whom_prefect_does_not_let_in_is_told_what_to_set(server: str, string: str | None, told: str) -> None:
    """And not to look whether the server is up: it has answered."""
    expected = f"Prefect at http://{server} {told} to the NAME:PASSWORD that its server was given"
    with temporary_settings({PREFECT_API_AUTH_STRING: string}):
        for ask in (lambda: check_prefect(10), create_a_flow, lambda: holds_event(UUID(int=0))):
            with pytest.raises(NotLetInError) as refused:
                ask()
            assert str(refused.value) == expected
            assert refused.value.exit_code == 2
    with temporary_settings({PREFECT_API_AUTH_STRING: STRING}):
        check_prefect(10)


def test_an_address_of_prefects_pages_is_told_as_such(server: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: f"http://{server}"}),
        pytest.raises(BadInputError, match=f"^PREFECT_API_URL=http://{server} is not Prefect's API; its .* /api$"),
    ):
        check_prefect(10)


def create_a_flow() -> None:
    with prefect() as client:
        client.create_flow_from_name("any")


def test_an_address_with_a_password_in_it_is_told_without(server: str) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://ann:secret@{server}/api"}), pytest.raises(NotLetInError) as told:
        check_prefect(10)
    assert f"Prefect at http://{server} asks who you are" in str(told.value)


def test_a_deployment_of_a_pool_is_made_once() -> None:
    made: list[tuple[Any, ...]] = []

    class Client:
        def read_deployment_by_name(self, name: str) -> None:
            if not made:
                raise ObjectNotFound(Exception(name))

        def create_flow_from_name(self, name: str) -> str:
            return f"id of {name}"

        def create_deployment(self, flow_id: str, name: str, **rest: str) -> None:
            made.append((flow_id, name, rest))

    client: Any = Client()
    assert ensure_pooled(client, "audit", "board", "flows.audit.audit")
    assert not ensure_pooled(client, "audit", "board", "flows.audit.audit")
    assert made == [("id of audit", "board", {"work_pool_name": "board", "entrypoint": "flows.audit.audit"})]
