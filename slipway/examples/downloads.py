"""Pinned packages fetched with the ordinary clients (pip, npm, apt) and checked; never installed, never passed on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slipway.errors import BadInputError, InfrastructureError, TamperedError

TIMEOUT_S = 900
# What to do where a client is missing; pip comes with Python.
REMEDIES = {
    "npm": "install Node.js (on Debian and Ubuntu, `apt install npm`)",
    "apt-get": "on a system that is neither Debian nor Ubuntu, fetch the package by hand",
}


@dataclass(frozen=True, slots=True)
class Package:
    """One file of a package registry, by name, version and sha256; ``size_mb`` is told while it is fetched."""

    client: Literal["pip", "npm", "apt"]
    name: str
    version: str
    filename: str
    sha256: str
    size_mb: int

    @property
    def command(self) -> list[str]:
        """The command that puts the file into the current directory."""
        if self.client == "npm":
            return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
        if self.client == "apt":
            return ["apt-get", "download", "--quiet", f"{self.name}={self.version}"]
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        return [sys.executable, "-m", "pip", "download", *options, f"{self.name}=={self.version}"]

    def fetch(self, directory: Path) -> Path:
        """The file in ``directory``, downloaded unless it is there.

        Raises:
            BadInputError: the client is not installed.
            TamperedError: the bytes are not those that were pinned.
            InfrastructureError: the download failed, with the client's last words.
        """
        path = directory / self.filename
        if not path.exists():
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                self._download(Path(scratch)).replace(path)
        found = _sha256(path)
        if found != self.sha256:
            raise TamperedError(f"{path} should have sha256 {self.sha256}, found {found}; delete it and try again")
        return path

    def _download(self, directory: Path) -> Path:
        wanted = f"{self.name} {self.version} ({self.size_mb} MB)"
        try:
            done = subprocess.run(
                self.command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except FileNotFoundError as error:
            program = self.command[0]
            raise BadInputError(
                f"{wanted} is fetched with {program}, which is not installed; {REMEDIES[program]}, or put "
                f"{self.filename} into {directory.parent}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError(f"fetching {wanted} took over {TIMEOUT_S} s; check the network") from error
        path = directory / self.filename
        if done.returncode != 0 or not path.exists():
            words = " ".join(done.stderr.split())[-300:] or f"no {self.filename} came"
            raise InfrastructureError(
                f"`{' '.join(self.command)}` failed: {words}; check that {self.client} reaches its package registry"
            )
        return path


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
