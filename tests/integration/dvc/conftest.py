"""A clone of this repository whose pipeline ran once; each test gets a copy in a directory of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import TRIES

ROOT = Path(__file__).parents[3]
ALWAYS = {"hardware", "verify"}  # cheap, and without consequence while host and data stay the same
VARIANTS = ["fp32", "int8-static"]
ENGINES = ["onnxruntime", "openvino"]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@localhost",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@localhost",
}


class Checkout:
    """A project under git and DVC, and the commands that people type in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        if command[0] == "dvc":
            command = (sys.executable, "-m", *command)
        return subprocess.run(command, cwd=self.root, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("dvc", *arguments)

    def slipway(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("slipway", *arguments)

    def told(self, *command: str) -> str:
        """What a command that has to succeed prints."""
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def repro(self) -> set[str]:
        """Reproduce, and tell which stages ran."""
        done = self.dvc("repro")
        assert done.returncode == 0, done.stdout + done.stderr
        return set(re.findall(r"^Running stage '(.+)':", done.stdout, re.MULTILINE))

    def digests(self) -> dict[tuple[str, str], str]:
        """The sha256 of each engine that the pipeline built, by variant and engine."""
        found = {}
        for variant in VARIANTS:
            for engine in ENGINES:
                record = yaml.safe_load((self.root / "stages/build/x86" / engine / variant / "record.json").read_text())
                found[variant, engine] = record["artifact"]["digest"]
        return found

    def verdict(self) -> str:
        """What was concluded for the one target."""
        return str(json.loads((self.root / "stages/report/metrics.json").read_text())["x86"]["verdict"])

    def commit(self) -> None:
        self.told("git", "add", "--all")
        self.told("git", "commit", "--quiet", "--message", "state")


def _clone(place: Path) -> Checkout:
    """The files that git holds or would hold, as the first commit of a new repository."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    checkout = Checkout(place)
    checkout.told("git", "init", "--quiet")
    return checkout


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, set[str]]:
    """The clone after its first ``dvc repro``, and the stages that ran; nobody changes it."""
    checkout = _clone(tmp_path_factory.mktemp("clone"))
    path = checkout.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["variants"] = VARIANTS
    params["targets"]["x86"] |= {"engines": ENGINES, "threads": [1], "batch": [1]}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    checkout.commit()
    ran = checkout.repro()
    for _ in range(TRIES - 1):
        if checkout.verdict() != "INCONCLUSIVE":  # on a busy host latency may not settle at once
            break
        checkout.told("dvc", "repro", "--force", "--single-item", "benchmark@x86")
        checkout.repro()
    checkout.commit()
    return checkout, ran


@pytest.fixture
def checkout(reproduced: tuple[Checkout, set[str]], tmp_path: Path) -> Checkout:
    """A copy to change."""
    shutil.copytree(reproduced[0].root, tmp_path / "copy", symlinks=True)
    return Checkout(tmp_path / "copy")
