"""A content-addressed store: bytes are named by their sha256 and checked again whenever they are used."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from slipway.errors import BadInputError, InfrastructureError, TamperedError, first_line
from slipway.records import Artifact

LEFTOVER_SECONDS = 24 * 3600
FULL_BYTES = 1_000_000  # runtimes that write an engine from C++ seldom say that it was the disk


class MissingObjectError(InfrastructureError, FileNotFoundError):
    """The store does not hold the object, though a record names it."""


class DamagedObjectError(TamperedError):
    """The store held other bytes than the object's; they were moved aside, and now it is missing."""


def digest_of(path: Path) -> str:
    """The sha256 of a file's bytes; of a directory, the sha256 of the JSON list of sorted [relative path, sha256].

    Raises:
        BadInputError: ``path`` does not exist.
    """
    if path.is_dir():
        listing = [[file.relative_to(path).as_posix(), _file_digest(file)] for file in _files(path)]
        return hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest()
    if not path.is_file():
        raise BadInputError(f"cannot hash {path}: no such file or directory; check the path")
    return _file_digest(path)


def size_of(path: Path) -> int:
    """Size in bytes of a file, or of all files of a directory."""
    return sum(file.stat().st_size for file in _files(path)) if path.is_dir() else path.stat().st_size


class ObjectStore:
    """Objects under ``root/ab/abcdef.../NAME``; safe for concurrent writers of the same bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, path: Path, name: str | None = None) -> Artifact:
        """Copy a file or directory into the store; repeating it is harmless.

        Raises:
            BadInputError: ``path`` does not exist, or ``name`` is not a plain file name.
        """
        name = _plain(name or path.name)
        if not path.exists():
            raise BadInputError(f"cannot store {path}: no such file or directory; check the path")
        with self.new_dir() as scratch:
            copy = scratch / name
            if path.is_dir():
                shutil.copytree(path, copy)
            else:
                shutil.copyfile(path, copy)
            # The copy is hashed, not the source, which may change while it is read.
            artifact = Artifact(digest=digest_of(copy), name=name, size_bytes=size_of(copy))
            self._place(copy, artifact)
        return artifact

    def has(self, artifact: Artifact) -> bool:
        """Whether the object is here and its bytes still agree with its digest."""
        path = self._address(artifact)
        try:
            return path.exists() and digest_of(path) == artifact.digest
        except (FileNotFoundError, BadInputError):  # moved aside by another process while being hashed
            return False

    def path(self, artifact: Artifact) -> Path:
        """Where the object lies, its bytes hashed just now.

        Raises:
            MissingObjectError: the object is not here.
            DamagedObjectError: its bytes differ from the digest; they were moved aside, so that a step can be repeated.
        """
        path = self._address(artifact)
        if not path.exists():
            raise MissingObjectError(
                f"object {artifact.name} ({artifact.digest[:12]}) is not in the store {self.root}; "
                "run the step that made it again"
            )
        found = digest_of(path)
        if found != artifact.digest:
            aside = self._move_aside(path)
            raise DamagedObjectError(
                f"object {artifact.name} should hash to {artifact.digest[:12]}, found {found[:12]}; "
                f"moved to {aside}; run the step that made it again"
            )
        return path

    @contextlib.contextmanager
    def new_dir(self) -> Iterator[Path]:
        """A temporary directory on the store's file system, removed afterwards; a killed process's goes after a day.

        Raises:
            InfrastructureError: the file system was full when the block failed, so nothing was learnt from it.
        """
        scratch = self.root / "tmp"
        with self._told_when_full():
            scratch.mkdir(parents=True, exist_ok=True)
        for leftover in scratch.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process cleans as well
                if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)
        with (
            self._told_when_full(),
            tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as directory,
            self._told_when_full(),  # before the directory goes, which makes room
        ):
            yield Path(directory)

    @contextlib.contextmanager
    def _told_when_full(self) -> Iterator[None]:
        try:
            yield
        except InfrastructureError:
            raise
        except Exception as error:
            reason = os.strerror(errno.ENOSPC)
            if reason not in str(error) and not self._is_full():
                raise
            raise InfrastructureError(
                f"{reason} in {self.root} ({first_line(error)}); make room, and run the same again"
            ) from error

    def _is_full(self) -> bool:
        try:
            return shutil.disk_usage(self.root).free < FULL_BYTES
        except OSError:  # there is no such directory, which is another fault
            return False

    def _address(self, artifact: Artifact) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", artifact.digest):
            raise BadInputError(f"digest {artifact.digest!r} is not a sha256 in hexadecimal")
        return self.root / artifact.digest[:2] / artifact.digest / _plain(artifact.name)

    def _place(self, copy: Path, artifact: Artifact) -> None:
        destination = self._address(artifact)
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.exists():
            if self.has(artifact):
                return
            self._move_aside(destination)
        try:
            copy.rename(destination)
        except OSError:
            # A directory cannot be renamed over one that another writer of the same bytes placed first.
            if not self.has(artifact):
                raise

    def _move_aside(self, path: Path) -> Path:
        aside = Path(tempfile.mkdtemp(prefix=f"{path.parent.name[:12]}-", dir=_made(self.root / "bad"))) / path.name
        with contextlib.suppress(FileNotFoundError):  # another process was first
            path.rename(aside)
        return aside


def _files(directory: Path) -> list[Path]:
    files = [Path(folder) / name for folder, _, names in os.walk(directory, followlinks=True) for name in names]
    return sorted(files, key=lambda file: file.relative_to(directory).as_posix())


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain(name: str) -> str:
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise BadInputError(f"object name {name!r} is not a plain file name")
    return name


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
