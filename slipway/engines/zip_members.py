"""Zip archives of engines, read without trust: a damaged one is refused, and so is one that swells when unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slipway.engines.checks import bad_file

SWELLING_BYTES = 64 * 2**20  # TorchScript deflates the source code in its archives, and only that


@contextmanager
def opened(engine: str, path: Path, wanted: str) -> Iterator[zipfile.ZipFile]:
    """The archive at ``path``, to be read in this context.

    Raises:
        BadInputError: it is missing, damaged, not the one that is ``wanted``, or unpacks to much more than its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size + SWELLING_BYTES:
                raise zipfile.BadZipFile("it unpacks to much more than its size")  # noqa: TRY301 - ends as any damage
            yield archive
    except Exception as error:  # a damaged archive can fail anywhere in the reader
        raise bad_file(engine, path, wanted) from error


def read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """The member ``name``, which engines write without compression.

    Raises:
        KeyError: there is none.
        BadZipFile: it is compressed, so no engine wrote it.
    """
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{name} is compressed")
    return archive.read(member)
