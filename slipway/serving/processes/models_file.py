"""The file that names the models of one server."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from slipway.errors import BadInputError, nearest
from slipway.records import Record
from slipway.stores.registry import CHAMPION


class ModelEntry(Record):
    """A source model's engine for a target, of the version that bears the alias."""

    name: str
    target: str
    alias: str = CHAMPION

    @property
    def registered(self) -> str:
        """The registered model that holds its engines."""
        return f"{self.name}.{self.target}"


def read_models(path: Path) -> tuple[ModelEntry, ...]:
    """The models that the YAML file ``path`` lists.

    Raises:
        BadInputError: the file cannot be read, is no such list, or lists a model twice.
    """
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # a date such as 2026-13-01 is a ValueError
        raise BadInputError(f"cannot read the models of {path}: {' '.join(str(error).split())}") from error
    if not isinstance(listed, list) or not listed:
        raise BadInputError(f"{path} holds no list of models; list them as: - {{name: digits-resnet, target: x86}}")
    entries = tuple(_entry(path, number, one) for number, one in enumerate(listed, start=1))
    names = [entry.registered for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInputError(f"{path} lists {twice} twice; a server serves one version of it, so list it once")
    return entries


def _entry(path: Path, number: int, listed: object) -> ModelEntry:
    try:
        return ModelEntry.model_validate(listed)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            told = f"unknown key {key!r}{nearest(key, ModelEntry.model_fields)}"
        elif first["type"] == "missing":
            told = f"key {key!r} is missing"
        else:
            told = f"{key}: {first['msg']}" if key else first["msg"]
        known = ", ".join(ModelEntry.model_fields)
        raise BadInputError(f"{path}, model {number}: {told}; a model has the keys {known}") from error
