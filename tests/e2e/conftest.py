"""One Prefect server and one released project for the session; each test works on a copy of the project."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from unittest import mock

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.release import release
from slipway.cli import ending, main
from slipway.config import load_params
from slipway.records import ReleaseResult, Verdict
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.wiring import workshop
from tests.e2e.project import make_project
from tests.unit.cli.program import Ended


@dataclass(frozen=True)
class Released:
    """A project after its first release."""

    root: Path
    result: ReleaseResult


Slipway: TypeAlias = Callable[..., Ended]


@pytest.fixture(scope="session")
def _prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def released(_prefect: None, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """The project that every test starts from; read it and change nothing."""
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    with contextlib.chdir(root):
        for _ in range(3):
            result = release(load_params(root / "params.yaml"))
            if not unsettled(result):
                break
        return Released(root, result)


def unsettled(result: ReleaseResult) -> bool:
    """Whether some latency did not settle, as it may on a busy host; such timings are not kept."""
    return any(
        one.decision.verdict is Verdict.INCONCLUSIVE for outcome in result.release.targets for one in outcome.candidates
    )


@pytest.fixture
def project(released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the released project as the current directory; what commands set in the environment is undone."""
    root = tmp_path / "project"
    shutil.copytree(released.root, root)
    monkeypatch.chdir(root)
    with mock.patch.dict(os.environ):
        yield root


@pytest.fixture
def registry(project: Path) -> MlflowRegistry:
    """The registry of the project."""
    return workshop(project).registry


@pytest.fixture
def slipway(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Slipway:
    """Run a command in this process, where Prefect's server is up already."""
    monkeypatch.setattr(ending, "prepare", lambda: None)  # the tests' own process outlives the command

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["slipway", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run
