"""What a person without the right, the name or the password meets, and what one who may edit but not delete leaves."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn
from urllib.error import URLError

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import CUSTOMER_UNAUTHORIZED, INTERNAL_ERROR, PERMISSION_DENIED, UNAUTHENTICATED
from requests import HTTPError

from slipway.errors import BadInputError, InfrastructureError, RejectedError
from slipway.stores.mlflow_border import at_border, without_password
from slipway.stores.mlflow_connection import Connection
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.registry import DECISION_TAG
from tests.contract.stores.conftest import PYFUNC_CODE
from tests.unit.steps.registered import register_engine

HELP = "ask for EDIT permission on the model or experiment, or set MLFLOW_TRACKING_USERNAME to somebody who has it"


class Store:
    """A store that raises."""

    def __init__(self, error: Exception, tracking_uri: str = "http://mlflow:5000") -> None:
        self.tracking_uri = tracking_uri
        self._error = error

    @at_border
    def set_challenger(self, *names: str) -> NoReturn:
        raise self._error


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (
            MlflowException("API request failed with error code 403. Response body: 'No!'", PERMISSION_DENIED),
            "No!",
        ),
        (MlflowException("not\nyours", PERMISSION_DENIED), "not yours"),
        (HTTPError("403 Client Error: FORBIDDEN for url: u"), "403 Client Error: FORBIDDEN for url: u"),
        (MlflowException("failed: 403 Client Error: u", INTERNAL_ERROR), "failed: 403 Client Error: u"),
    ],
)
def test_a_missing_right_is_refused_and_tells_whose_and_what_for(
    error: Exception, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")

    with pytest.raises(RejectedError) as raised:
        Store(error).set_challenger("digits.x86", "2", "more")

    told = f"does not let bob do this (set challenger digits.x86 2): {answer}; {HELP}"
    assert str(raised.value) == f"MLflow at http://mlflow:5000 {told}"


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("who?", UNAUTHENTICATED),
        MlflowException("who?", CUSTOMER_UNAUTHORIZED),
        HTTPError("401 Client Error: UNAUTHORIZED for url: u"),
    ],
)
def test_a_wrong_password_names_the_variables(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    with pytest.raises(BadInputError) as raised:
        Store(error).set_challenger()
    assert str(raised.value) == f"MLflow at http://mlflow:5000 does not accept bob with this password; {variables}"

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    with pytest.raises(BadInputError) as raised:
        Store(error).set_challenger()
    assert str(raised.value) == f"MLflow at http://mlflow:5000 asks who you are; {variables}"


@pytest.mark.parametrize("length", range(300, 480, 9))
def test_no_password_of_an_address_is_told_wherever_the_message_is_cut(length: int) -> None:
    uri = "http://ann:oh@secret@mlflow:5000"
    error = MlflowException(f"{'x' * (length - len(uri))} {uri}/api failed", INTERNAL_ERROR)

    with pytest.raises(InfrastructureError) as raised:
        Store(error, uri).set_challenger()

    assert "MLflow at http://ann:***@mlflow:5000: " in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "oh@" not in str(raised.value)


@pytest.mark.parametrize("uri", ["http://mlflow:5000/a@b", "http://mlflow:5000", "sqlite:////data/a:b@c.db"])
def test_an_address_without_a_password_is_told_as_it_is(uri: str) -> None:
    assert without_password(uri) == uri


def test_an_address_with_a_password_is_asked_for_a_sign_of_life_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """To urllib a name is part of the host and, where there is no port, the password is one: it would tell it."""
    asked = []

    def urlopen(url: str, timeout: float) -> NoReturn:
        asked.append(url)
        raise URLError("nobody there")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(InfrastructureError, match=r"^cannot reach MLflow at http://ann:\*\*\*@mlflow/: .*nobody there"):
        Connection("http://ann:oh@secret@mlflow/", None).check()
    assert asked == ["http://mlflow/health"]


class Server:
    """Answers to what MLflow's basic-auth app does, and to the question whether it lives."""

    def __init__(self) -> None:
        self.status, self.body = 200, "{}"
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked_who = self.path == "/api/2.0/mlflow/users/current"
                self.send_response(answers.status if asked_who else 200)
                self.end_headers()
                self.wfile.write(answers.body.encode() if asked_who else b"OK")

            def log_message(self, *_: object) -> None:
                """Tell nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()
        self.uri = f"http://127.0.0.1:{self._http.server_address[1]}"

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("status", "body", "name"),
    [
        (200, '{"user": {"id": 7, "username": "ann", "is_admin": false}, "is_basic_auth": true}', "ann"),
        (404, "Not Found", None),
        (200, "<html>MLflow</html>", None),
        (200, '{"user": null}', None),
        (403, "Permission denied", None),
    ],
)
def test_the_server_tells_whom_it_has_authenticated(status: int, body: str, name: str | None, server: Server) -> None:
    server.status, server.body = status, body
    assert Connection(server.uri, None).user() == name


def test_whom_the_server_does_not_accept_has_no_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    server.status, server.body = 401, "You are not authenticated."
    with pytest.raises(BadInputError, match="does not accept bob with this password"):
        Connection(server.uri, None).user()


def test_a_store_without_a_server_authenticates_nobody(tmp_path: Path) -> None:
    assert Connection(f"sqlite:///{tmp_path}/mlflow.db", None).user() is None
    assert list(tmp_path.iterdir()) == []


Editor = Callable[[str, int], MlflowRegistry]


@pytest.fixture
def editor(registry: MlflowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Editor:
    """The registry as somebody with EDIT meets it, who may do all but delete an alias; with some versions in it."""

    def refuse(name: str, alias: str) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    def made(name: str, versions: int) -> MlflowRegistry:
        for number in range(1, versions + 1):
            register_engine(registry, tmp_path, name, f"{name} {number}".encode())
        asking = MlflowRegistry(registry.tracking_uri, None, PYFUNC_CODE)
        client = registry._connection.client
        asking._connection.__dict__["client"] = client
        monkeypatch.setattr(client, "delete_registered_model_alias", refuse)
        return asking

    return made


def test_who_may_not_delete_an_alias_can_approve_and_roll_back(editor: Editor) -> None:
    name = "edited.x86"
    registry = editor(name, 3)
    registry.promote(name, "1", None, None)
    for version, previous in (("2", "1"), ("3", "2")):
        registry.set_challenger(name, version)
        for _ in range(2):  # repeating it is harmless
            registry.promote(name, version, "ann", "fine")
        assert registry.aliases(name) == {"champion": version, "previous": previous}

    assert registry.rollback(name).version == "2"
    assert registry.aliases(name) == {"champion": "2"}
    registry.promote(name, "1", "ann", "fine")
    assert registry.aliases(name) == {"champion": "1", "previous": "2"}


def test_who_may_not_delete_an_alias_can_reject(editor: Editor) -> None:
    name = "rejected.x86"
    registry = editor(name, 3)
    registry.promote(name, "1", None, None)
    registry.set_challenger(name, "2")
    registry.reject(name, "2", "ann", "slow")
    assert registry.aliases(name) == {"champion": "1"}

    registry.promote(name, "3", "ann", "fine")
    assert registry.aliases(name) == {"champion": "3", "previous": "1"}


def test_a_rejected_challenger_without_a_champion_is_at_least_tagged(editor: Editor) -> None:
    registry = editor("lonely.x86", 1)
    registry.set_challenger("lonely.x86", "1")
    registry.reject("lonely.x86", "1", "ann", "slow")
    assert registry.version("lonely.x86", "1").tags[DECISION_TAG] == "rejected"


def test_what_else_mlflow_refuses_an_alias_for_is_told(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = editor("unplanned.x86", 1)
    registry.set_challenger("unplanned.x86", "1")

    def fail(name: str, alias: str) -> None:
        raise MlflowException("the disk is full", INTERNAL_ERROR)

    monkeypatch.setattr(registry._connection.client, "delete_registered_model_alias", fail)
    with pytest.raises(InfrastructureError, match="the disk is full"):
        registry.reject("unplanned.x86", "1", "ann", "slow")
