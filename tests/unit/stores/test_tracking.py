"""Against real DVC repositories without git, in temporary directories."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from slipway.errors import BadInputError, TamperedError
from slipway.stores.tracking import ensure_remote, push, track, verify


@pytest.fixture
def root(tmp_path: Path) -> Path:
    from dvc.repo import Repo

    Repo.init(str(tmp_path), no_scm=True).close()
    data = tmp_path / "data" / "test"
    (data / "sub").mkdir(parents=True)
    # DVC sorts by the text of the path: "sub-1" before "sub/2".
    for name in ("1.npz", "sub/2.npz", "sub-1.npz"):
        (data / name).write_text(f"bytes of {name}")
    return tmp_path


@pytest.fixture
def data(root: Path) -> Path:
    directory = root / "data" / "test"
    track(directory)
    return directory


def _flip_a_byte(path: Path) -> None:
    """Change one byte and put size and mtime back: `dvc status` does not see it."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_md5_is_the_one_dvc_computes(data: Path) -> None:
    recorded = yaml.safe_load(data.with_name("test.dvc").read_text())["outs"][0]

    source = verify(data)

    assert (source.md5, source.files, source.size_bytes) == (recorded["md5"], 3, recorded["size"])
    assert source.path == str(data)


def test_a_changed_byte_is_caught_and_its_file_named(data: Path) -> None:
    _flip_a_byte(data / "sub" / "2.npz")

    with pytest.raises(TamperedError, match=r"changed sub/2\.npz; to restore .*`dvc checkout .*`dvc add"):
        verify(data)


def test_missing_and_extra_files_are_named(data: Path) -> None:
    (data / "1.npz").rename(data / "9.npz")

    with pytest.raises(TamperedError, match=r"missing 1\.npz, extra 9\.npz"):
        verify(data)


def test_without_the_listing_the_directory_alone_is_named(data: Path, root: Path) -> None:
    shutil.rmtree(root / ".dvc" / "cache")
    _flip_a_byte(data / "1.npz")

    with pytest.raises(TamperedError, match="does not hold its listing"):
        verify(data)


def test_the_listing_is_found_in_a_configured_cache(root: Path) -> None:
    with (root / ".dvc" / "config").open("a") as config:
        config.write(f"[cache]\n    dir = {root / 'elsewhere'}\n")
    data = root / "data" / "test"
    track(data)
    _flip_a_byte(data / "1.npz")

    assert not (root / ".dvc" / "cache" / "files").exists()
    with pytest.raises(TamperedError, match=r"changed 1\.npz"):
        verify(data)


def test_a_single_file_can_be_tracked(root: Path) -> None:
    file = root / "labels.npz"
    file.write_text("labels")

    assert track(file) == verify(file)
    assert verify(file).files == 1
    _flip_a_byte(file)
    with pytest.raises(TamperedError, match=r"changed labels\.npz"):
        verify(file)


def test_the_output_of_a_stage_is_found_in_the_lock(root: Path, data: Path) -> None:
    md5 = verify(data).md5
    data.with_name("test.dvc").unlink()
    stage = {"cmd": "make-data", "outs": [{"path": "data/test", "md5": md5, "hash": "md5"}]}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"data": stage}}))

    assert verify(data).md5 == md5
    _flip_a_byte(data / "1.npz")
    with pytest.raises(TamperedError, match=r"changed 1\.npz"):
        verify(data)


def test_untracked_and_missing_data_are_bad_input(root: Path) -> None:
    with pytest.raises(BadInputError, match="dvc add"):
        verify(root / "data" / "test")
    with pytest.raises(BadInputError, match="dvc pull"):
        verify(root / "data" / "nothing")
    with pytest.raises(BadInputError, match="dvc pull"):
        track(root / "data" / "nothing")


def test_data_outside_any_repository_cannot_be_tracked(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_text("x")

    with pytest.raises(BadInputError, match="dvc init"):
        track(file)


def test_tracking_accepts_even_a_change_that_dvc_would_miss(data: Path) -> None:
    before = verify(data).md5
    _flip_a_byte(data / "1.npz")

    assert track(data).md5 != before


def test_tracking_unchanged_data_touches_nothing(data: Path) -> None:
    before = data.with_name("test.dvc").stat()
    track(data)

    assert data.with_name("test.dvc").stat() == before


def test_the_default_remote_is_local_and_not_committed(root: Path, data: Path, tmp_path: Path) -> None:
    committed = (root / ".dvc" / "config").read_text()
    for _ in range(2):
        ensure_remote(root, tmp_path / "remote")

    assert (root / ".dvc" / "config").read_text() == committed
    assert push(data) == 4  # three files and their listing
    assert push(data) == 0


def test_a_configured_remote_is_kept(root: Path, tmp_path: Path) -> None:
    (root / ".dvc" / "config").write_text("[core]\n    remote = s3\n['remote \"s3\"']\n    url = s3://bucket/data\n")
    ensure_remote(root, tmp_path / "remote")

    assert not (root / ".dvc" / "config.local").exists()


def test_a_remote_needs_a_repository(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="dvc init"):
        ensure_remote(tmp_path, tmp_path / "remote")


def test_bytes_made_anew_as_they_are_tracked_can_be_pushed(data: Path, root: Path, tmp_path: Path) -> None:
    """As in a fresh clone, where the tracking record is there and the cache is not."""
    shutil.rmtree(root / ".dvc" / "cache")
    before = data.with_name("test.dvc").read_bytes()
    track(data)
    ensure_remote(root, tmp_path / "remote")

    assert push(data) == 4
    assert data.with_name("test.dvc").read_bytes() == before


@pytest.fixture
def committed(data: Path, root: Path) -> Path:
    """Data whose tracking record is committed in git."""
    _git(root, "init", "--quiet")
    _git(root, "add", "data/test.dvc")
    _git(root, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "--message", "data")
    return data


def _git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True)


def test_a_record_that_only_the_working_tree_holds_proves_nothing(committed: Path, root: Path) -> None:
    """As `dvc repro` leaves it, which rewrites the record to fit changed data."""
    _flip_a_byte(committed / "1.npz")
    track(committed)

    with pytest.raises(TamperedError, match=r"changed 1\.npz; .*`git add .*test\.dvc`"):
        verify(committed)
    _git(root, "add", "data/test.dvc")
    verify(committed)


def test_data_can_be_held_against_an_older_revision(committed: Path, root: Path) -> None:
    _flip_a_byte(committed / "1.npz")
    track(committed)
    _git(root, "add", "data/test.dvc")

    with pytest.raises(TamperedError, match=r"changed 1\.npz"):
        verify(committed, "HEAD")


def test_an_unknown_revision_is_told(committed: Path) -> None:
    with pytest.raises(BadInputError, match="git knows no revision 'v99'"):
        verify(committed, "v99")


def test_without_a_remote_nothing_is_pushed_and_the_cure_told(data: Path) -> None:
    with pytest.raises(BadInputError, match=r"`dvc push .*` found no remote; run `dvc remote add --default"):
        push(data)


def test_a_repository_that_another_command_holds_is_told(
    data: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.lock import make_lock

    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0)  # seconds that DVC itself waits
    ensure_remote(root, root / "remote")

    with make_lock(str(root / ".dvc" / "tmp" / "lock")), pytest.raises(BadInputError, match="locked by another DVC"):
        push(data)
