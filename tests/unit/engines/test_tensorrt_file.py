"""The labelled engine file: nothing but what was written reaches the runtime."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from slipway.engines.tensorrt_file import LABEL, PLAN, Label, read_file, write_file
from slipway.errors import BadInputError
from tests.unit.engines.onnx_models import signature

WRITTEN = Label(
    engine="tensorrt", version="11.4", capabilities=("9.0",), signature=signature(), max_batch=8, dla_core=1
)
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_file(tmp_path / "good.engine", WRITTEN, CONTENT)
    return tmp_path / "good.engine"


def test_what_was_written_is_read(path: Path) -> None:
    assert read_file("tensorrt", path) == (WRITTEN, CONTENT)


def test_same_plan_gives_the_same_bytes_under_any_name_at_any_time(path: Path, tmp_path: Path) -> None:
    write_file(tmp_path / "again", WRITTEN, memoryview(CONTENT))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("flaw", ["missing", "empty", "truncated", "junk"])
def test_damaged_file_is_refused(path: Path, flaw: str) -> None:
    content = path.read_bytes()
    if flaw == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "junk": b"junk" * 100}[flaw])
    with pytest.raises(BadInputError, match=r"^engine tensorrt wants a file of its own .*; build the candidate again$"):
        read_file("tensorrt", path)


def test_file_of_the_sister_engine_is_refused(path: Path) -> None:
    with pytest.raises(BadInputError, match=r"^engine tensorrt-rtx wants a file that this engine built"):
        read_file("tensorrt-rtx", path)


def test_another_plan_under_the_same_label_is_refused(path: Path) -> None:
    """Repacked with a sound checksum of its own, as a person could."""
    with zipfile.ZipFile(path) as archive:
        label = archive.read(LABEL)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(LABEL, label)
        archive.writestr(PLAN, CONTENT[:-1] + b"!")
    with pytest.raises(BadInputError, match=rf"^engine tensorrt wants a plan whose sha256 is the one in its {LABEL}"):
        read_file("tensorrt", path)


def test_flipped_bit_is_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(CONTENT[:64]) + 5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"^engine tensorrt wants "):
        read_file("tensorrt", path)
