"""MLflow's server with users, permissions, and a log of who changed what in its registry.

`mlflow server --app-name slipway-auth` is `--app-name basic-auth` and the log.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

from slipway.stores.audit_log import (
    AuditLog,
    append,
    changes_something,
    claimed_user,
    created_version,
    told,
)

APP = "slipway-auth"
LOG_VARIABLE = "SLIPWAY_AUDIT_LOG"
FORM = "application/x-www-form-urlencoded"
USER = "slipway.user"  # of a request's environment: whom MLflow has authenticated
REFUSED, UNLOGGED = "503 SERVICE UNAVAILABLE", "507 INSUFFICIENT STORAGE"  # MLflow's client repeats the first alone

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]
WsgiApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]


def create_app() -> object:
    """The app that a worker of the server runs: MLflow's basic-auth app, with every change to the registry logged.

    Raises:
        BadInputError: no log is named, or it cannot be written.
    """
    from flask import g, request
    from mlflow.server import app
    from mlflow.server.auth import create_app as create_basic_auth

    log = checked_log()
    served = create_basic_auth()

    # Last of all, whatever came of the request: MLflow's own hooks refuse it or fail by then.
    @app.teardown_request
    def keep_user(_: BaseException | None) -> None:
        request.environ[USER] = g.get("mlflow_authenticated_user")

    # As Flask's documentation has it, for what must see every request and every answer.
    app.wsgi_app = Audited(app.wsgi_app, log)  # type: ignore[method-assign]
    return served


def checked_log() -> AuditLog:
    """The log that the environment names.

    Raises:
        BadInputError: none is named, or it cannot be written.
    """
    from slipway.errors import BadInputError

    path = os.environ.get(LOG_VARIABLE)
    if not path:
        raise BadInputError(f"no audit log is named; set {LOG_VARIABLE} to a file that the server can write")
    log = AuditLog(Path(path).absolute())
    try:
        os.close(log.open())
    except OSError as error:
        raise BadInputError(
            f"cannot write the audit log {path}: {error}; set {LOG_VARIABLE} to another file"
        ) from error
    return log


class Audited:
    """A WSGI app whose changes to the registry are logged with what came of them; without a log there are none."""

    def __init__(self, app: WsgiApp, log: AuditLog) -> None:
        self._app, self._log = app, log

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the request."""
        if not changes_something(environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")):
            return self._app(environ, start_response)
        try:
            descriptor = self._log.open()
        except OSError as error:
            return _said(start_response, REFUSED, f"the audit log {self._log.path} cannot be written: {error}")
        with closing(os.fdopen(descriptor, "wb", buffering=0)) as file:
            return self._logged(environ, start_response, file.fileno())

    def _logged(self, environ: Environ, start_response: StartResponse, descriptor: int) -> Iterable[bytes]:
        body = _body(environ)
        started: list[Any] = []

        def start(*words: Any) -> Callable[[bytes], object]:
            started.append(words)
            return _refuse_to_write

        answer = self._app(environ, start)
        try:
            parts = list(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()
        status, headers, *error = started[-1]
        entry = _entry(environ, body, status, b"".join(parts))
        try:
            append(descriptor, entry)
        except OSError as problem:
            sys.stderr.write(f"audit log {self._log.path}: {problem}: {json.dumps(entry)}\n")
            told_whom = f"this was answered with {status} and could not be logged: {problem}"
            return _said(start_response, UNLOGGED, f"{told_whom}; make room for the audit log, and look at what holds")
        start_response(status, headers, *error)
        return parts


def _body(environ: Environ) -> bytes:
    """The request's body, which the app can still read."""
    length = environ.get("CONTENT_LENGTH") or None
    if length is None and not environ.get("wsgi.input_terminated"):
        return b""
    body: bytes = environ["wsgi.input"].read(*([] if length is None else [int(length)]))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _entry(environ: Environ, body: bytes, status: str, answer: bytes) -> dict[str, Any]:
    user, path = environ.get(USER), environ.get("PATH_INFO", "")
    form = environ.get("CONTENT_TYPE", "").startswith(FORM)
    what = told(environ.get("QUERY_STRING", ""), body, form=form)
    if path.endswith("/model-versions/create") and (version := created_version(answer)) is not None:
        what["version"] = version
    return {
        "user": user or claimed_user(environ.get("HTTP_AUTHORIZATION")),
        "authenticated": user is not None,
        "remote_address": environ.get("REMOTE_ADDR"),
        "method": environ["REQUEST_METHOD"],
        "path": path,
        "what": what,
        "status": int(status.partition(" ")[0]),
    }


def _said(start_response: StartResponse, status: str, message: str) -> list[bytes]:
    code = "TEMPORARILY_UNAVAILABLE" if status == REFUSED else "INTERNAL_ERROR"
    body = json.dumps({"error_code": code, "message": message}).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _refuse_to_write(_: bytes) -> None:
    raise NotImplementedError("Flask answers with what it returns")


def before_the_workers() -> None:
    """Do once what MLflow does for its own app alone, by name, before it starts workers.

    The administrator is made, and what is wrong is told in one line, not by workers that start and die for ever. A
    token is made that workers and jobs share.
    """
    import click
    from mlflow.environment_variables import _MLFLOW_AUTH_ADMIN_BOOTSTRAPPED, _MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN
    from mlflow.exceptions import MlflowException
    from mlflow.server import _bootstrap_basic_auth

    from slipway.errors import BadInputError

    try:
        checked_log()
        _bootstrap_basic_auth()
    except (BadInputError, MlflowException) as error:
        raise click.ClickException(str(error)) from error
    os.environ[_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED.name] = "true"
    os.environ[_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN.name] = secrets.token_hex(32)


def is_starting() -> bool:
    """Whether this process is an `mlflow server` with this app that has started no worker yet."""
    if "click" not in sys.modules:
        return False
    context = sys.modules["click"].get_current_context(silent=True)
    return context is not None and context.command.name == "server" and context.params.get("app_name") == APP


# MLflow imports the module of an app in `mlflow server` itself, and calls nothing of it there.
if is_starting():
    before_the_workers()
