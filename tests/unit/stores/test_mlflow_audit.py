"""What is logged of a request, and what the server does when it cannot log."""

from __future__ import annotations

import base64
import io
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import BadInputError
from slipway.stores import mlflow_audit
from slipway.stores.audit_log import AuditLog, changes_something, claimed_user, told
from slipway.stores.mlflow_audit import LOG_VARIABLE, USER, Audited, Environ, StartResponse, checked_log

ALIAS = "/api/2.0/mlflow/registered-models/alias"
BODY = {"name": "digits.x86", "alias": "champion", "version": "2"}


class App:
    """Answers each request the same, once it has read it, and knows its user."""

    def __init__(self, status: str = "200 OK", user: str | None = "ann", answer: bytes = b"{}") -> None:
        self.status, self.user, self.answer = status, user, answer
        self.read: list[bytes] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.read.append(environ["wsgi.input"].read())
        environ[USER] = self.user
        start_response(self.status, [("X-Kept", "yes")])
        return [self.answer]


def ask(
    app: Audited, path: str = ALIAS, method: str = "POST", body: object = BODY, **more: str
) -> tuple[str, list[Any], bytes]:
    """Status, headers and body of the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "REMOTE_ADDR": "127.0.0.9", **more}
    environ |= {"wsgi.input": io.BytesIO(content), "CONTENT_LENGTH": str(len(content))}  # type: ignore[dict-item]
    started: list[Any] = []
    answer = b"".join(app(environ, lambda *words: started.append(words) or (lambda _: None)))  # type: ignore[func-returns-value]
    return started[0][0], started[0][1], answer


def lines(log: AuditLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl")


@pytest.mark.parametrize("prefix", ["", "/behind/a-proxy"])
@pytest.mark.parametrize("api", ["api/2.0", "ajax-api/2.0", "api/3.0", "ajax-api/3.0"])
@pytest.mark.parametrize(
    ("method", "path", "changes"),
    [
        ("POST", "registered-models/alias", True),
        ("DELETE", "registered-models/alias", True),
        ("GET", "registered-models/alias", False),
        ("POST", "registered-models/create", True),
        ("PATCH", "registered-models/update", True),
        ("POST", "registered-models/rename", True),
        ("DELETE", "registered-models/delete", True),
        ("POST", "registered-models/set-tag", True),
        ("DELETE", "registered-models/delete-tag", True),
        ("POST", "registered-models/get-latest-versions", False),
        ("POST", "model-versions/create", True),
        ("POST", "model-versions/set-tag", True),
        ("DELETE", "model-versions/delete-tag", True),
        ("POST", "model-versions/transition-stage", True),
        ("GET", "model-versions/search", False),
        ("POST", "webhooks", True),
        ("PATCH", "webhooks/w-1", True),
        ("POST", "users/create", True),
        ("POST", "users/create-ui", True),
        ("PATCH", "users/update-password", True),
        ("POST", "users/permissions/grant", True),
        ("POST", "roles/permissions/add", True),
        ("POST", "experiments/permissions/create", True),
        ("POST", "runs/create", False),
        ("POST", "registered-models-of-mine/create", False),
    ],
)
def test_every_spelling_of_a_change_is_one(method: str, path: str, changes: bool, api: str, prefix: str) -> None:
    assert changes_something(method, f"{prefix}/{api}/mlflow/{path}") is changes


def test_every_route_of_mlflow_that_writes_to_the_registry_is_logged() -> None:
    """A route that a later MLflow adds is one too, unless its name says that it reads."""
    from mlflow.server.handlers import get_endpoints

    about = ("registered-model", "model-versions", "webhooks")
    routes = [
        (path, method)
        for path, _, methods in get_endpoints()
        for method in methods
        if method != "GET" and any(word in path for word in about)
    ]
    left_out = {path.rpartition("/")[2] for path, method in routes if not changes_something(method, path)}
    assert len(routes) >= 30
    assert left_out == {"get-latest-versions"}


def test_a_change_is_told_with_its_user_and_status(log: AuditLog) -> None:
    app = App()

    assert ask(Audited(app, log)) == ("200 OK", [("X-Kept", "yes")], b"{}")

    assert app.read == [json.dumps(BODY).encode()]
    (line,) = lines(log)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "user": "ann",
        "authenticated": True,
        "remote_address": "127.0.0.9",
        "method": "POST",
        "path": ALIAS,
        "what": BODY,
        "status": 200,
    }


def test_a_refusal_is_told_with_the_name_that_was_claimed(log: AuditLog) -> None:
    claim = "Basic " + base64.b64encode(b"ann:not/her:password").decode()

    assert ask(Audited(App("401 UNAUTHORIZED", None), log), HTTP_AUTHORIZATION=claim)[0] == "401 UNAUTHORIZED"

    (line,) = lines(log)
    assert (line["user"], line["authenticated"], line["status"]) == ("ann", False, 401)
    assert "password" not in log.path.read_text()


@pytest.mark.parametrize("claim", [None, "", "Bearer x", "Basic", "Basic %%%", "Basic YW5u"])
def test_what_claims_no_name_has_none(claim: str | None) -> None:
    assert claimed_user(claim) is None


def test_what_is_only_read_is_not_told(log: AuditLog) -> None:
    ask(Audited(App(), log), "/api/2.0/mlflow/model-versions/search", "GET", b"")
    assert not log.path.exists()


def test_no_password_and_no_secret_is_told() -> None:
    for body in (
        {
            "username": "ann",
            "password": "hidden",
            "newPassword": "hidden",
            "secret": "hidden",
            "url": "http://u:hidden@h/",
        },
        {"username": "ann", "value": {"password": "x"}, "url": "https://hidden@h/x", "token": "hidden"},
    ):
        assert "hidden" not in json.dumps(told("password=hidden", json.dumps(body).encode()))
    assert told("", b"username=ann&password=hidden&csrf_token=hidden") == {"username": "ann"}


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[1]", b"null", b"[" * 100_000, b'"unquoted"'])
def test_a_body_that_says_nothing_is_told_as_nothing(body: bytes) -> None:
    assert told("", body) == {}


def test_fields_are_told_however_they_are_spelt() -> None:
    assert told("", b'{"newName": "b", "isAdmin": true}') == {"new_name": "b", "is_admin": True}
    assert told("name=a&alias=x", b"") == {"name": "a", "alias": "x"}
    assert told("name=b", b'{"name": "b"}') == {"name": "b"}
    assert told("", json.dumps(json.dumps({"name": "a"})).encode()) == {"name": "a"}


def test_a_decoy_is_not_told_in_place_of_what_mlflow_takes() -> None:
    """MLflow drops a spelling that is none of its own, and of a request's query and body takes one."""
    decoys = {"Name": "playground", "Alias": "test", "Version": "9", "Key": "note", "Value": "hello"}
    assert told("", json.dumps(BODY | decoys).encode()) == BODY
    assert told("username=victim", b'{"username": "decoy"}') == {
        "username": "decoy",
        "query": {"username": "victim"},
    }
    assert told("username=victim&username=decoy", b"") == {"username": '["victim", "decoy"]'}


def test_a_form_is_read_as_one_though_it_be_json_too(log: AuditLog) -> None:
    both = b'{"a": "&username=victim&password=hidden&x=", "username": "decoy"}'
    ask(Audited(App(), log), "/api/2.0/mlflow/users/create-ui", body=both, CONTENT_TYPE=mlflow_audit.FORM)
    assert lines(log)[0]["what"] == {"username": "victim"}


def test_a_tag_that_a_version_is_made_with_cannot_be_hidden_behind_others(log: AuditLog) -> None:
    forged = {"key": "slipway.approval.carl", "value": "x" * 600, "more": "hidden"}
    tags = [{"key": f"pad-{n}", "value": "x" * 100} for n in range(20)]
    for made_with in ([*tags, forged], tags * 20):
        ask(Audited(App(), log), "/api/2.0/mlflow/model-versions/create", body={"name": "m", "tags": made_with})

    first, second = (line["what"]["tags"] for line in lines(log))
    assert first[-1] == {"key": "slipway.approval.carl", "value": "x" * 500 + "... (600 characters)"}
    assert (len(second), second[-1]) == (201, "... (400 tags)")


def test_a_long_value_is_cut_and_a_line_stays_one_line(log: AuditLog) -> None:
    ask(Audited(App(), log), body={"name": "a\nb", "value": "x" * 90_000})
    (line,) = lines(log)
    assert line["what"] == {"name": "a\nb", "value": "x" * 500 + "... (90000 characters)"}


def test_the_version_that_was_created_is_told(log: AuditLog) -> None:
    answer = b'{"model_version": {"name": "m", "version": "7"}}'
    ask(Audited(App(answer=answer), log), "/api/2.0/mlflow/model-versions/create", body={"name": "m", "source": "s"})
    assert lines(log)[0]["what"] == {"name": "m", "source": "s", "version": "7"}


def test_without_a_log_nothing_changes(tmp_path: Path) -> None:
    app = App()
    status, _, answer = ask(Audited(app, AuditLog(tmp_path / "gone" / "audit.jsonl")))

    assert status.startswith("503 ")
    assert "cannot be written" in json.loads(answer)["message"]
    assert app.read == []


def test_without_room_nothing_changes(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstatvfs
    full = type("Full", (), {"f_bavail": 1, "f_frsize": 4096})
    monkeypatch.setattr(os, "fstatvfs", lambda _: full)
    app = App()
    assert ask(Audited(app, log))[0].startswith("503 ")
    assert app.read == []

    monkeypatch.setattr(os, "fstatvfs", real)
    assert ask(Audited(app, log))[0] == "200 OK"


def test_a_change_that_could_not_be_logged_after_all_is_told_to_the_caller_and_on_stderr(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = type("Roomy", (), {"f_bavail": 10**6, "f_frsize": 4096})
    monkeypatch.setattr(os, "fstatvfs", lambda _: roomy)

    status, _, answer = ask(Audited(App(), AuditLog(Path("/dev/full"))))

    assert status.startswith("507 ")
    assert "answered with 200 OK and could not be logged" in json.loads(answer)["message"]
    assert '"alias": "champion"' in capfd.readouterr().err


def test_lines_of_many_writers_stay_whole(log: AuditLog) -> None:
    app = Audited(App(), log)
    writers = [
        threading.Thread(target=lambda n=number: [ask(app, body={"name": f"{n}-{i}"}) for i in range(50)])
        for number in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {line["what"]["name"] for line in lines(log)} == {f"{n}-{i}" for n in range(8) for i in range(50)}


def test_a_server_without_a_log_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOG_VARIABLE, raising=False)
    with pytest.raises(BadInputError, match=f"set {LOG_VARIABLE} to a file"):
        checked_log()
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "gone" / "audit.jsonl"))
    with pytest.raises(BadInputError, match="cannot write the audit log"):
        checked_log()
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "audit.jsonl"))
    assert checked_log().path == tmp_path / "audit.jsonl"


def test_only_the_server_s_own_process_prepares_the_workers() -> None:
    import click

    assert not mlflow_audit.is_starting()
    command = click.Command("server")
    for app, starts in (("slipway-auth", True), ("basic-auth", False)):
        context = click.Context(command)
        context.params["app_name"] = app
        with context:
            assert mlflow_audit.is_starting() is starts
