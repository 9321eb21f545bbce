"""The lines that a log has gained since it was last looked at; it may be rotated or truncated meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from slipway.errors import InfrastructureError

CHUNK_BYTES = MAX_LINE_BYTES = 2**20
_HEAD_BYTES = 512


class LogTail:
    """Reads ``path`` from its start, then what is new at each look; a line is told once it is whole.

    First come its older parts, named ``path.1``, ``path.2`` and so on, that were written to after ``since_s`` (seconds
    since 1970). A rotated file is read until its writer has begun the next one. ``too_long`` counts lines of more than
    1 MiB, which are left out.
    """

    def __init__(self, path: Path, since_s: float) -> None:
        self.path = path
        self.too_long = 0
        self._since_s = since_s
        self._file: FileIO | None = None
        self._older_read = False
        self._begin()

    def lines(self) -> Iterator[bytes]:
        """Each whole line that is new, without its end; an empty one is none.

        Raises:
            InfrastructureError: the log is there, and cannot be read.
        """
        try:
            yield from self._lines()
        except OSError as error:
            raise InfrastructureError(
                f"cannot read the log {self.path}: {error.strerror}; let the controller's user read it"
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> Iterator[bytes]:
        if not self._older_read:
            parts, self._older_read = self._older(), True
            for older in parts:
                yield from self._whole(older)
        if self._file is None and not self._open(self.path):
            return
        if self._rewritten():
            yield from self._copied()
            self.close()
            if not self._open(self.path):
                return
        yield from self._new()
        if self._has_successor():
            yield from self._new()  # what was written after the last read, before the writer left
            yield from self._last()
            self.close()
            if self._open(self.path):
                yield from self._new()

    def _older(self) -> list[Path]:
        """Earlier parts of the log, the oldest first."""
        numbered = [(p.suffix[1:], p) for p in self.path.parent.glob(f"{self.path.name}.*") if p.stem == self.path.name]
        parts = sorted((int(number), part) for number, part in numbered if number.isdecimal())
        return [part for _, part in reversed(parts) if part.stat().st_mtime >= self._since_s]

    def _whole(self, path: Path) -> Iterator[bytes]:
        if self._open(path):
            yield from self._new()
            yield from self._last()
            self.close()

    def _open(self, path: Path) -> bool:
        """Open a file at its start; whether it is there."""
        self._begin()
        try:
            self._file = FileIO(path)
        except FileNotFoundError:
            return False
        return True

    def _begin(self) -> None:
        self._partial = self._head = b""
        self._read_bytes = 0
        self._skipping = False

    def _new(self) -> Iterator[bytes]:
        """The whole lines up to the file's end as it is now."""
        assert self._file is not None
        while chunk := self._file.read(CHUNK_BYTES):
            self._read_bytes += len(chunk)
            if len(self._head) < _HEAD_BYTES:
                self._head = os.pread(self._file.fileno(), _HEAD_BYTES, 0)[: self._read_bytes]
            *whole, partial = (self._partial + chunk).split(b"\n")
            if whole and self._skipping:
                self._skipping = False
                del whole[0]
            self._partial = b"" if self._skipping else partial
            yield from filter(None, whole)
            if len(self._partial) > MAX_LINE_BYTES:
                self.too_long += 1
                self._partial, self._skipping = b"", True

    def _last(self) -> Iterator[bytes]:
        """The last line of a file that nobody writes to any more: whole or not, it is all there will be."""
        if self._partial:
            yield self._partial
        self._partial = b""

    def _rewritten(self) -> bool:
        """Whether the file was truncated, even if it has grown as long again."""
        assert self._file is not None
        number = self._file.fileno()
        return os.fstat(number).st_size < self._read_bytes or os.pread(number, len(self._head), 0) != self._head

    def _copied(self) -> Iterator[bytes]:
        """What the log had gained when it was copied to ``path.1``, to be emptied."""
        try:
            copy = FileIO(self.path.with_name(f"{self.path.name}.1"))
        except FileNotFoundError:
            return
        with copy:
            if os.pread(copy.fileno(), len(self._head), 0) == self._head:
                copy.seek(self._read_bytes)
                yield from filter(None, (self._partial + copy.readall()).split(b"\n"))

    def _has_successor(self) -> bool:
        """Whether another file bears the log's name, and is written to."""
        assert self._file is not None
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        return now.st_size > 0 and not os.path.samestat(now, os.fstat(self._file.fileno()))
