from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from slipway.errors import BadInputError, InfrastructureError, TamperedError, UnsupportedError
from slipway.records import Artifact
from slipway.stores.objects import MissingObjectError, ObjectStore, digest_of


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"engine")
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    (path / "model.xml").write_bytes(b"<xml>")
    (path / "sub" / "model.bin").write_bytes(b"weights")
    return path


def test_a_file_is_named_by_the_sha256_of_its_bytes(store: ObjectStore, file: Path) -> None:
    digest = hashlib.sha256(b"engine").hexdigest()

    assert store.put(file) == Artifact(digest=digest, name="model.onnx", size_bytes=6)
    assert store.path(store.put(file)) == store.root / digest[:2] / digest / "model.onnx"


def test_a_directory_is_named_by_its_sorted_listing(store: ObjectStore, directory: Path) -> None:
    listing = [
        ["model.xml", hashlib.sha256(b"<xml>").hexdigest()],
        ["sub/model.bin", hashlib.sha256(b"weights").hexdigest()],
    ]
    digest = hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest()

    artifact = store.put(directory)

    assert artifact == Artifact(digest=digest, name="model", size_bytes=12)
    assert (store.path(artifact) / "sub" / "model.bin").read_bytes() == b"weights"


def test_renaming_a_file_inside_a_directory_changes_its_digest(directory: Path) -> None:
    before = digest_of(directory)
    (directory / "model.xml").rename(directory / "other.xml")

    assert digest_of(directory) != before


def test_putting_again_is_harmless_and_leaves_nothing_behind(store: ObjectStore, file: Path, directory: Path) -> None:
    for path in (file, directory):
        assert store.put(path) == store.put(path)

    assert list((store.root / "tmp").iterdir()) == []
    assert not (store.root / "bad").exists()


def test_an_object_can_be_given_another_name(store: ObjectStore, file: Path) -> None:
    assert store.path(store.put(file, "other.bin")).name == "other.bin"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_writers_of_the_same_bytes_do_not_disturb_each_other(
    store: ObjectStore, kind: str, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(kind)
    found: list[Artifact] = []
    writers = [threading.Thread(target=lambda: found.append(store.put(source))) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert len(found) == 8
    assert len(set(found)) == 1
    assert store.has(found[0])
    assert not (store.root / "bad").exists()


def test_changed_bytes_are_refused_and_moved_aside(store: ObjectStore, file: Path) -> None:
    artifact = store.put(file)
    stored = store.path(artifact)
    before = stored.stat()
    stored.write_bytes(b"engin!")
    os.utime(stored, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert not store.has(artifact)
    with pytest.raises(TamperedError, match="run the step that made it again"):
        store.path(artifact)
    assert [path.read_bytes() for path in (store.root / "bad").rglob("model.onnx")] == [b"engin!"]
    with pytest.raises(MissingObjectError):
        store.path(artifact)
    assert store.path(store.put(file)).read_bytes() == b"engine"


def test_putting_heals_changed_bytes(store: ObjectStore, directory: Path) -> None:
    artifact = store.put(directory)
    (store.path(artifact) / "model.xml").write_bytes(b"<bad>")

    assert store.put(directory) == artifact
    assert store.has(artifact)


def test_a_missing_object_is_told_as_a_missing_file(store: ObjectStore) -> None:
    artifact = Artifact(digest="0" * 64, name="x.onnx", size_bytes=1)

    assert not store.has(artifact)
    with pytest.raises(FileNotFoundError, match=r"x\.onnx .* is not in the store"):
        store.path(artifact)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_records_cannot_lead_out_of_the_store(store: ObjectStore, name: str) -> None:
    with pytest.raises(BadInputError, match="plain file name"):
        store.path(Artifact(digest="0" * 64, name=name, size_bytes=1))
    with pytest.raises(BadInputError, match="not a sha256"):
        store.path(Artifact(digest="../../etc", name="passwd", size_bytes=1))


def test_what_does_not_exist_cannot_be_stored(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        store.put(tmp_path / "nothing")
    with pytest.raises(BadInputError, match="no such file"):
        digest_of(tmp_path / "nothing")


def test_temporary_directories_go_even_after_errors(store: ObjectStore) -> None:
    seen: list[Path] = []

    def fail_inside() -> None:
        with store.new_dir() as scratch:
            seen.append(scratch)
            (scratch / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not seen[0].exists()


def test_leftovers_of_killed_processes_go_after_a_day(store: ObjectStore) -> None:
    old, recent = store.root / "tmp" / "old", store.root / "tmp" / "recent"
    for leftover in (old, recent):
        leftover.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))

    with store.new_dir():
        assert not old.exists()
        assert recent.exists()


def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    store: ObjectStore, file: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, copy: Path) -> None:
        Path(copy).write_bytes(b"eng")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(copy))

    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr(shutil, "copytree", full)
    for one in (file, directory):
        with pytest.raises(InfrastructureError, match=f"^No space left on device in {store.root} .*; make room"):
            store.put(one)

    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_whatever_a_runtime_says_on_a_full_disk_it_is_the_disk(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (RuntimeError("file write failed"), UnsupportedError("cannot export")):
        with pytest.raises(type(error), match=str(error)), store.new_dir():
            raise error
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    for error in (RuntimeError("file write failed"), UnsupportedError("cannot export")):
        with (
            pytest.raises(InfrastructureError, match=rf"^No space left on device in .* \(.*{error}\)"),
            store.new_dir(),
        ):
            raise error
