"""A step's result as a directory that DVC can track: the record as JSON, and beside it the bytes that it names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from slipway.errors import BadInputError, TamperedError
from slipway.records import Artifact, Failure
from slipway.stores.objects import ObjectStore, digest_of

RECORD_FILE = "record.json"
T = TypeVar("T")


def save(directory: Path, record: BaseModel, objects: ObjectStore) -> None:
    """Write ``record`` and copies of all artifacts in it; ``directory`` is replaced as a whole."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for artifact in _artifacts(record):
        place = directory / artifact.digest[:16]
        place.mkdir(exist_ok=True)
        source, copy = objects.path(artifact), place / artifact.name
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, copy)
    # Last, so that a directory with a record is complete.
    (directory / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load(directory: Path, kind: type[T], objects: ObjectStore) -> T:
    """Read a record of ``kind`` and bring its artifacts into the object store.

    Raises:
        BadInputError: the step that writes ``directory`` has not run, or wrote something else.
        TamperedError: the bytes beside the record are not those that it names.
    """
    return _load(directory, TypeAdapter(kind), objects)


def load_outcome(directory: Path, kind: type[T], objects: ObjectStore) -> T | Failure:
    """As ``load``, where the step may have ended in a Failure instead."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind | Failure)  # type: ignore[arg-type]  # a union made at run time
    outcome: T | Failure = _load(directory, adapter, objects)
    return outcome


def _load(directory: Path, adapter: TypeAdapter[T], objects: ObjectStore) -> T:
    try:
        record = adapter.validate_json((directory / RECORD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"{directory} holds no step result; run the step before it, or `dvc repro`") from None
    except ValidationError as error:
        raise BadInputError(
            f"{directory / RECORD_FILE} is not a step result of this version; run `dvc repro`"
        ) from error
    for artifact in _artifacts(record):
        copy = directory / artifact.digest[:16] / artifact.name
        if not objects.has(artifact):
            if not copy.exists() or digest_of(copy) != artifact.digest:
                raise TamperedError(f"{copy} is missing or differs from its record; restore it with `dvc checkout`")
            objects.put(copy)
    return record


def _artifacts(value: object) -> Iterator[Artifact]:
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _artifacts(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _artifacts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _artifacts(item)
