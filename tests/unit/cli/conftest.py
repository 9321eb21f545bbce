"""The program as a person calls it, in a project of its own whose registry is in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import dvc.repo  # noqa: F401 - DVC logs to the stdout of its first import, which must not be one test's capture
import pytest

from slipway.cli import canary, demo, ending, engines, host, main, release, status
from slipway.stores.objects import ObjectStore
from slipway.wiring import Workshop
from tests.fakes.registry import FakeRegistry
from tests.unit.cli.program import Ended

Slipway: TypeAlias = Callable[..., Ended]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory; what commands set in the environment is undone."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        yield tmp_path


@pytest.fixture
def registry(project: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """The registry that every command finds."""
    found = FakeRegistry()
    shop: Any = Workshop(root=project, objects=ObjectStore(project / "objects"), registry=found)  # type: ignore[arg-type]
    for module in (canary, demo, engines, host, release, status):
        monkeypatch.setattr(module, "workshop", lambda: shop)
    return found


@pytest.fixture
def slipway(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Slipway:
    """Run the program with these arguments."""
    monkeypatch.setattr(ending, "prepare", lambda: None)  # the tests' own process outlives the command

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["slipway", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run
