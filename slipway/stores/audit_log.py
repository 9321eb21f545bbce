"""The lines of MLflow's audit log: what of a request is told, and how a line is written whole or not at all."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

VALUE_CHARACTERS = 500
MOST_TAGS = 200  # of those that a version is made with
FREE_BYTES = 1_000_000  # room for what is under way in every worker
# Whoever is new under these is told too; what they only read is left out by its method or its name.
ABOUT = "registered-models|model-versions|webhooks|users|roles"
CHANGED = re.compile(rf"/(?:ajax-)?api/\d+\.\d+/mlflow/(?:(?:{ABOUT})(?:/|$)|(?:.+/)?permissions(?:/|$))")
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
READING = re.compile(r"/(?:get-latest-versions|search)/?$")
# What is told of a request, by name: a password or a webhook's secret is not among these.
TOLD = {
    *("name", "new_name", "version", "alias", "key", "value", "stage", "archive_existing_versions", "description"),
    *("source", "run_id", "model_id", "tags", "username", "is_admin", "user_id", "workspace"),
    *("permission", "resource_type", "resource_id", "resource_pattern", "experiment_id"),
    *("role", "role_id", "role_name", "role_permission_id", "webhook_id", "url", "events", "status"),
}
# MLflow takes the names of fields in camel case as well.
SPELLINGS = {re.sub("_(.)", lambda found: found[1].upper(), name): name for name in TOLD} | {one: one for one in TOLD}


def changes_something(method: str, path: str) -> bool:
    """Whether a request asks for a change to a registered model, version, alias, tag, webhook, permission or user."""
    return method not in READING_METHODS and CHANGED.search(path) is not None and READING.search(path) is None


def told(query: str, body: bytes, *, form: bool = False) -> dict[str, Any]:
    """What a request is about, as far as it is told: of a body in JSON, else of a ``form``; the body before the query.

    Where the two differ, ``query`` tells the other one too: which of them counts is for MLflow to say.
    """
    asked, sent = _named(_of_pairs(parse_qsl(query))), _named(_of_body(body, form))
    what = asked | sent
    return what if all(what[name] == value for name, value in asked.items()) else what | {"query": asked}


def created_version(answer: bytes) -> str | None:
    """The number of the version that was created; None where an answer tells none."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(answer)["model_version"]["version"])
    return None


def claimed_user(authorization: str | None) -> str | None:
    """The name that a request gives in its basic authentication, right or wrong."""
    scheme, _, content = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    with suppress(binascii.Error, ValueError):
        name, colon, _ = base64.b64decode(content).decode("utf-8", "replace").partition(":")
        return name[:VALUE_CHARACTERS] if colon else None
    return None


class AuditLog:
    """A file of JSON lines, to which several processes append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> int:
        """A descriptor to append a line to, while there is room for it.

        Raises:
            OSError: the file cannot be written.
        """
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        place = os.fstatvfs(descriptor)
        if place.f_bavail * place.f_frsize >= FREE_BYTES:
            return descriptor
        os.close(descriptor)
        raise OSError(f"less than {FREE_BYTES:,} bytes are free there")


def append(descriptor: int, entry: Mapping[str, Any]) -> None:
    """Write one line in one call, which nothing from another process can come between.

    Raises:
        OSError: it was not written, or not whole.
    """
    line = (json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}) + "\n").encode()
    if os.write(descriptor, line) != len(line):
        raise OSError("a line was cut short")


def _of_body(body: bytes, form: bool) -> Mapping[str, Any]:
    try:
        found = None if form else json.loads(body)
        if isinstance(found, str):  # some clients encode twice, and MLflow takes that
            found = json.loads(found)
    except (ValueError, RecursionError):
        found, form = None, True
    if form:
        return _of_pairs(parse_qsl(body.decode("utf-8", "replace")))
    return found if isinstance(found, Mapping) else {}


def _of_pairs(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """What is named several times has all its values: of these MLflow takes one."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are told, as MLflow names them: it takes no other spelling, in which a decoy could be told."""
    return {
        SPELLINGS[name]: _cut_tags(value) if SPELLINGS[name] == "tags" else _cut(value)
        for name, value in fields.items()
        if name in SPELLINGS
    }


def _cut_tags(tags: object) -> object:
    """Each tag by itself: what is put before it must not hide it."""
    if not isinstance(tags, list):
        return _cut(tags)
    told = [
        {name: _cut(tag[name]) for name in ("key", "value") if name in tag} if isinstance(tag, dict) else _cut(tag)
        for tag in tags[:MOST_TAGS]
    ]
    return told if len(tags) <= MOST_TAGS else [*told, f"... ({len(tags)} tags)"]


def _cut(value: object) -> object:
    if isinstance(value, int | float) or value is None:
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    # An address may hold a password.
    text = re.sub(r"(?<=://)[^/@\s]*@", "***@", text)
    if len(text) <= VALUE_CHARACTERS:
        return text
    return f"{text[:VALUE_CHARACTERS]}... ({len(text)} characters)"
