"""Take out of this project's object store what no release has written or read for weeks.

The store keeps every file that a step ever made, and nothing else makes it smaller. A release whose cache names what is
gone makes it again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from slipway.errors import BadInputError
from slipway.stores.objects import ObjectStore, size_of

UNUSED_SECONDS = 14 * 24 * 3600.0
DIGEST_CHARACTERS = 64


class UnusedObject(NamedTuple):
    """An object, as it lies in the store, that nobody has used for so long."""

    place: Path
    size_bytes: int
    unused_seconds: float


def unused_objects(objects: ObjectStore, unused_seconds: float = UNUSED_SECONDS) -> list[UnusedObject]:
    """The objects that were neither written nor read for so long, the longest unused first.

    A file system that tells no time of reading (mounted noatime) lets what is only read look unused.
    """
    places = (place for place in objects.root.glob("[0-9a-f][0-9a-f]/*") if len(place.name) == DIGEST_CHARACTERS)
    idle = ((place, _idle_seconds(place)) for place in places)
    found = (UnusedObject(place, size_of(place), seconds) for place, seconds in idle if seconds > unused_seconds)
    return sorted(found, key=lambda one: -one.unused_seconds)


def remove_objects(objects: ObjectStore, unused: Iterable[UnusedObject], state: Path, models: Iterable[str]) -> int:
    """Delete the objects, unless one was used meanwhile; how many were.

    ``state`` holds the locks of releases, ``models`` are those that this project may release.

    Raises:
        BadInputError: a release is under way in this project.
    """
    removed = 0
    with _no_release(state, models), objects.new_dir() as scratch:
        for one in unused:
            if not one.place.exists() or _idle_seconds(one.place) < one.unused_seconds:
                continue
            aside = scratch / one.place.name
            one.place.rename(aside)  # at once: nobody finds half an object
            shutil.rmtree(aside)
            removed += 1
    return removed


def _idle_seconds(place: Path) -> float:
    """Since the object was last written or read."""
    files = [Path(folder) / name for folder, _, names in os.walk(place) for name in names]
    times = [max(stat.st_mtime, stat.st_atime) for stat in (file.stat() for file in files)]
    return time.time() - max(times, default=place.stat().st_mtime)


@contextmanager
def _no_release(state: Path, models: Iterable[str]) -> Iterator[None]:
    """Hold the locks of every release that this project could start, until the block ends."""
    known = {f"release-{model}.lock" for model in models} | {lock.name for lock in state.glob("release-*.lock")}
    with ExitStack() as held:
        for name in sorted(known):
            try:
                held.enter_context(FileLock(state / name, timeout=0))
            except Timeout:
                model = name.removeprefix("release-").removesuffix(".lock")
                raise BadInputError(
                    f"a release of {model} is running in this project and uses its objects; prune when it has ended"
                ) from None
        yield
