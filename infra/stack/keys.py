"""The passwords and keys of the servers: random, made once, kept beside what they open."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from pathlib import Path

from infra.stack.layout import read_json, write_private

Keys = dict[str, str]


def _password() -> str:
    return secrets.token_urlsafe(24)  # needs no quoting in a URL, an ini file or a shell


def _fernet() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


MADE: dict[str, Callable[[], str]] = {
    "postgres-postgres": _password,
    "postgres-prefect": _password,
    "postgres-mlflow": _password,
    "postgres-slipway": _password,
    "redis": _password,
    "s3-slipway-id": lambda: f"slipway-{secrets.token_hex(8)}",
    "s3-slipway": _password,
    "s3-mlflow-id": lambda: f"mlflow-{secrets.token_hex(8)}",
    "s3-mlflow": _password,
    "s3-files": _password,
    "mlflow-admin": _password,
    "mlflow-slipway": _password,
    "mlflow-forms": _password,
    "mlflow-webhooks": _fernet,
    "prefect-api": _password,
    "webhook": _password,
}


def kept_keys(path: Path) -> Keys:
    """The keys of ``path``; those missing are made and kept there.

    Raises:
        BadInputError: the file holds something else.
    """
    kept = {name: str(value) for name, value in read_json(path).items()}
    keys = {name: kept.get(name) or make() for name, make in MADE.items()}
    if keys != kept:
        write_private(path, json.dumps(kept | keys, indent=2) + "\n")
    return keys
