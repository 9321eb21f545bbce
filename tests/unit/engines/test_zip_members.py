"""Whatever becomes of an archive, it is read rightly or refused in one line, and refused before it swells."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway.engines import tvm_library, zip_members
from slipway.engines.torch_archive import read_signature, require_form
from slipway.engines.zip_members import opened, read_stored
from slipway.errors import BadInputError
from slipway.records import Form, Signature, TensorSpec

SPEC = TensorSpec(name="x", dtype="float32", shape=(-1, 4))
SIGNATURE = Signature(inputs=(SPEC,), outputs=(SPEC,))
LIBRARY = b"\x7fELF not really"


def write_tvm(path: Path) -> None:
    digest = tvm_library.sha256(LIBRARY)
    label = tvm_library.Label(
        version="1", library=digest, machine="m", instructions=(), signature=SIGNATURE, kernels={}, batches={}
    )
    tvm_library.write(path, LIBRARY, label)


def write_torch(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/models/model.json", b"{}")
        archive.writestr("archive/extra/signature.json", SIGNATURE.model_dump_json())


def read_torch(engine: str, path: Path) -> tuple[Form, Signature]:
    return require_form(engine, path, Form.PROGRAM), read_signature(engine, path)


@pytest.mark.parametrize(("write", "read"), [(write_tvm, tvm_library.read), (write_torch, read_torch)])
def test_an_archive_with_a_flipped_bit_is_read_rightly_or_refused(
    write: Callable[[Path], None], read: Callable[[str, Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "archive"
    write(path)
    whole, right = path.read_bytes(), read("tvm", path)
    refused = 0
    for bit in range(0, 8 * len(whole), 11):  # 11 and 8 have no common divisor: every bit of a byte has its turn
        place, mask = bit // 8, 1 << bit % 8
        path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        try:
            assert read("tvm", path) == right
        except BadInputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a flip may also hurt nothing, such as one in a date
            refused += 1
    assert refused > len(whole) / 3


def test_a_member_that_no_engine_compressed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("label", bytes(1000))

    with pytest.raises(BadInputError, match="damaged file"), opened("tvm", path, "a label") as archive:
        read_stored(archive, "label")


def test_an_archive_that_swells_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchScript deflates its source code, so that some swelling is right."""
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/code/model.py", bytes(100_000))

    assert require_form("torch", path, Form.TORCHSCRIPT) is Form.TORCHSCRIPT
    monkeypatch.setattr(zip_members, "SWELLING_BYTES", 50_000)
    with pytest.raises(BadInputError, match="a TorchScript file"):
        require_form("torch", path, Form.TORCHSCRIPT)
