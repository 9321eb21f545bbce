"""MLflow's REST API, as the user who asks, with its refusals in Slipway's words."""

from __future__ import annotations

import os
import re
from typing import Any

import httpx

from slipway.errors import BadInputError, InfrastructureError, RejectedError

CONNECT_SECONDS = 5.0
HASHING_SECONDS = 60.0  # a busy host hashes a password that long
ABSENT = "RESOURCE_DOES_NOT_EXIST"
CURRENT_USER = "2.0/mlflow/users/current"
FORBIDDEN = "PERMISSION_DENIED"


class MlflowApi:
    """One MLflow server, asked as ``user`` (name and password), or as nobody in particular.

    Raises:
        BadInputError: its address is none.
    """

    def __init__(self, uri: str, user: tuple[str, str] | None) -> None:
        # Without a name and password of its own: who asks is told apart, and messages name it.
        self.uri = re.sub("(?<=://)[^/]*@", "", uri).rstrip("/")
        self._user = user
        patience = httpx.Timeout(HASHING_SECONDS, connect=CONNECT_SECONDS)
        try:
            self._client = httpx.Client(base_url=f"{self.uri}/api", auth=user, timeout=patience, verify=_certificates())
        except httpx.InvalidURL as error:
            raise BadInputError(
                f"{self.uri} is no address of a server: {error}; set MLFLOW_TRACKING_URI to http://HOST:PORT"
            ) from error

    def as_user(self, name: str, password: str) -> MlflowApi:
        """The same server, asked as somebody else."""
        return MlflowApi(self.uri, (name, password))

    def guarded(self) -> bool:
        """Whether the server asks who asks; told by how it answers nobody in particular.

        Raises:
            BadInputError: it is no MLflow server.
        """
        answer = self._send("GET", CURRENT_USER)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            return True
        self.find("2.0/mlflow/experiments/get-by-name", experiment_name="Default")
        return False

    def me(self) -> dict[str, Any]:
        """Who the server takes the asker for.

        Raises:
            BadInputError: it does not accept the name and the password.
        """
        return dict(self._check(self._send("GET", CURRENT_USER), "who asks")["user"])

    def find(self, path: str, **asked: str) -> dict[str, Any] | None:
        """What there is; None if MLflow says that there is no such thing."""
        answer = self._send("GET", path, params=asked)
        if answer.is_error and _code(answer) == ABSENT:
            return None
        return self._check(answer, f"{path} {' '.join(asked.values())}")

    def post(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Make something."""
        return self._check(self._send("POST", path, json=fields), path)

    def patch(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Change something."""
        return self._check(self._send("PATCH", path, json=fields), path)

    def _send(self, method: str, path: str, **asked: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **asked)
        except httpx.HTTPError as error:
            raise InfrastructureError(
                f"MLflow at {self.uri} did not answer: {type(error).__name__}: {error}; start it, or correct "
                "MLFLOW_TRACKING_URI"
            ) from error

    def _check(self, answer: httpx.Response, asked: str) -> dict[str, Any]:
        """What was answered.

        Raises:
            SlipwayError: a refusal, or a failure of the server.
        """
        server, name = f"MLflow at {self.uri}", self._user[0] if self._user else "nobody"
        told = _message(answer)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise BadInputError(
                f"{server} does not accept {name} with this password; correct MLFLOW_ADMIN_USERNAME and "
                "MLFLOW_ADMIN_PASSWORD, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        if answer.status_code == httpx.codes.FORBIDDEN or _code(answer) == FORBIDDEN:
            raise RejectedError(f"{server} does not let {name} do this ({asked}): {told}; ask its administrator")
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise InfrastructureError(f"{server} failed ({asked}): {told}; look at its log")
        if answer.is_error:
            raise BadInputError(f"{server} refused ({asked}): {told}; correct what it names")
        try:
            found = answer.json()
        except ValueError as error:
            raise BadInputError(
                f"{server} answered {told[:80]!r} where MLflow answers JSON ({asked}); correct MLFLOW_TRACKING_URI"
            ) from error
        return dict(found)


def _code(answer: httpx.Response) -> str | None:
    try:
        return str(answer.json()["error_code"])
    except (ValueError, KeyError, TypeError):
        return None


def _message(answer: httpx.Response) -> str:
    try:
        told = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        told = answer.text or answer.reason_phrase
    return " ".join(told.split())[:400]


def _certificates() -> bool | str:
    """Whom MLflow's own client would trust."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"true", "1"}:
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
