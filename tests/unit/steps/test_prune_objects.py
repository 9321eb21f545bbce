from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from slipway.errors import BadInputError
from slipway.records import Artifact
from slipway.steps.prune_objects import UNUSED_SECONDS, remove_objects, unused_objects
from slipway.stores.objects import ObjectStore


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def put(objects: ObjectStore, tmp_path: Path, content: str, written_days: float, read_days: float) -> Artifact:
    """An object that was last written and read so many days ago."""
    file = tmp_path / content
    file.write_text(content)
    artifact = objects.put(file)
    place = objects.root / artifact.digest[:2] / artifact.digest / artifact.name
    now = time.time()
    os.utime(place, (now - read_days * 86400, now - written_days * 86400))
    return artifact


def test_what_was_neither_written_nor_read_for_two_weeks_goes(objects: ObjectStore, tmp_path: Path) -> None:
    unused = put(objects, tmp_path, "unused", 30, 15)
    written = put(objects, tmp_path, "written", 13, 13)
    read = put(objects, tmp_path, "read", 30, 1)

    found = unused_objects(objects)
    assert [one.place.name for one in found] == [unused.digest]
    assert found[0].size_bytes == len("unused")
    assert found[0].unused_seconds > UNUSED_SECONDS

    assert remove_objects(objects, found, tmp_path, ["digits"]) == 1
    assert [objects.has(one) for one in (unused, written, read)] == [False, True, True]
    assert list(objects.root.glob("tmp/*")) == []
    objects.put(tmp_path / "unused")
    assert objects.has(unused)


def test_what_was_used_since_it_was_looked_at_stays(objects: ObjectStore, tmp_path: Path) -> None:
    used = put(objects, tmp_path, "used", 30, 30)
    found = unused_objects(objects)
    place = found[0].place / used.name
    os.utime(place)

    assert remove_objects(objects, found, tmp_path, []) == 0
    assert objects.has(used)


@pytest.mark.parametrize("models", [["digits"], []])
def test_while_a_release_runs_nothing_goes(objects: ObjectStore, tmp_path: Path, models: list[str]) -> None:
    unused = put(objects, tmp_path, "unused", 30, 30)
    with (
        FileLock(tmp_path / "release-digits.lock"),
        pytest.raises(BadInputError, match=r"^a release of digits is running in this project"),
    ):
        remove_objects(objects, unused_objects(objects), tmp_path, models)

    assert objects.has(unused)


def test_a_store_that_is_empty_or_not_there_has_nothing_unused(objects: ObjectStore, tmp_path: Path) -> None:
    assert unused_objects(objects) == []
    assert remove_objects(objects, [], tmp_path, []) == 0
