"""The gateway's logs: requests as they were shared, read back from the end; and files that do not fill the disk."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_BYTES = 64 * 2**20
BLOCK_BYTES = 64 * 2**10
LONGEST_SECONDS = 120.0


class Shared(BaseModel):
    """A line of the access log: an inference request, the arm that the share chose for it, and the one that answered.

    ``start_s`` is in seconds since 1970; ``upstream_us`` is from the request's sending to the answer's first byte, of
    the last attempt; None where nobody answered.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # a later gateway may tell more

    start_s: float
    request_id: str | None
    asked: str
    answered: str | None
    code: int
    upstream_us: int | None
    total_us: int | None
    flags: str | None


def older(log: Path) -> Path:
    """Where the lines before those of ``log`` are."""
    return log.with_name(f"{log.name}.1")


def shared_since(log: Path, since_s: float) -> list[Shared]:
    """The requests that started at ``since_s`` or later, in the order in which they were answered.

    A line that is still being written, or was cut by a full disk, is left out.
    """
    found, since_s = [], math.floor(since_s * 1e3) / 1e3  # the log tells whole milliseconds
    for line in _backwards(older(log), log):
        try:
            request = Shared.model_validate_json(line)
        except ValidationError:
            continue
        if request.start_s >= since_s:
            found.append(request)
        elif request.start_s < since_s - LONGEST_SECONDS:  # lines stand in the order of their ends
            break
    return found[::-1]


def rotate_renamed(log: Path, reopen: Callable[[], None], max_bytes: int = MAX_BYTES) -> None:
    """Rename a log that grew too long, and have its writer ``reopen`` it; no line is lost.

    Where the writer could not be told, the next call tells it.
    """
    if _size(log) > max_bytes:
        log.replace(older(log))
    if older(log).exists() and not log.exists():
        reopen()


def rotate_copied(log: Path, max_bytes: int = MAX_BYTES) -> None:
    """Copy and empty a log that grew too long, whose writer keeps it open to append.

    What is written in between is lost: some lines of many thousands. On a full disk all of it is.
    """
    if _size(log) > max_bytes:
        try:
            shutil.copyfile(log, older(log))
        except OSError:
            older(log).unlink(missing_ok=True)
        os.truncate(log, 0)


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _backwards(*files: Path) -> Iterator[bytes]:
    """The lines of the files, from the last one's last."""
    seen = set()
    for file in reversed(files):
        try:
            stream = file.open("rb")
        except FileNotFoundError:
            continue
        with stream:
            inode = os.fstat(stream.fileno()).st_ino
            if inode in seen:  # renamed just now
                continue
            seen.add(inode)
            position, rest = stream.seek(0, os.SEEK_END), b""
            while position:
                start = max(0, position - BLOCK_BYTES)
                stream.seek(start)
                rest, *lines = (stream.read(position - start) + rest).split(b"\n")
                position = start
                yield from reversed(lines)
            yield rest
