"""With a stand-in for npm on PATH: a shell script that writes the file, or fails."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Literal

import pytest

from slipway.errors import BadInputError, InfrastructureError, TamperedError
from slipway.examples.downloads import Package

PACKAGE = Package(
    client="npm",
    name="pictures",
    version="1.2.3",
    filename="pictures-1.2.3.tgz",
    sha256=hashlib.sha256(b"pack pictures@1.2.3").hexdigest(),
    size_mb=1,
)


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, which writes its arguments but the options into the package's file."""
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf "%s %s" "$1" "$3" > pictures-1.2.3.tgz\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/bin:/usr/bin")
    return script


def test_the_pinned_version_is_fetched_once(npm: Path, tmp_path: Path) -> None:
    directory = tmp_path / "downloads"
    assert PACKAGE.fetch(directory).read_bytes() == b"pack pictures@1.2.3"
    npm.unlink()
    assert PACKAGE.fetch(directory) == directory / "pictures-1.2.3.tgz"
    assert list(directory.iterdir()) == [directory / "pictures-1.2.3.tgz"]


@pytest.mark.usefixtures("npm")
def test_other_bytes_are_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(PACKAGE, sha256="0" * 64)
    with pytest.raises(TamperedError, match=r"pictures-1.2.3.tgz should have sha256 0000.*delete it and try again"):
        other.fetch(tmp_path)


def test_a_failure_is_told_in_the_clients_own_words(npm: Path, tmp_path: Path) -> None:
    npm.write_text("#!/bin/sh\necho '404 no such package' >&2\nexit 1\n")
    with pytest.raises(InfrastructureError, match=r"`npm pack --silent pictures@1.2.3` failed: 404 no such package"):
        PACKAGE.fetch(tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_client_that_brings_nothing_has_failed(npm: Path, tmp_path: Path) -> None:
    npm.write_text("#!/bin/sh\n")
    with pytest.raises(InfrastructureError, match=r"no pictures-1.2.3.tgz came"):
        PACKAGE.fetch(tmp_path)


@pytest.mark.parametrize(
    ("client", "told"),
    [("npm", r"npm.*install Node.js"), ("apt", r"apt-get.*neither Debian nor Ubuntu.*put pictures-1.2.3.tgz into /")],
)
def test_a_missing_client_is_told_with_what_to_do(
    client: Literal["npm", "apt"], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInputError, match=rf"pictures 1.2.3 \(1 MB\) is fetched with {told}"):
        dataclasses.replace(PACKAGE, client=client).fetch(tmp_path)


def test_pip_takes_the_wheel_alone() -> None:
    command = dataclasses.replace(PACKAGE, client="pip").command
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", "pictures==1.2.3"} < set(command)


def test_apt_fetches_the_pinned_version_without_installing_it() -> None:
    assert dataclasses.replace(PACKAGE, client="apt").command == ["apt-get", "download", "--quiet", "pictures=1.2.3"]
