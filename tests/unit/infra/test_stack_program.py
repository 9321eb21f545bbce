"""`python -m infra.stack` as a person calls it, without servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.stack import Stack
from infra.stack.__main__ import app


def test_whoever_interrupts_a_start_is_told_what_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def up(_: Stack, tell: Callable[[str], None]) -> None:
        tell("redis: started")
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Stack, "up", up)
    ended = CliRunner().invoke(app, ["up", "--json"])

    assert (ended.exit_code, ended.stdout) == (130, "")
    assert "interrupted; what was started goes on" in ended.stderr


def test_down_where_nothing_runs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert f"nothing ran in {tmp_path}" in " ".join(CliRunner().invoke(app, ["down"]).stderr.split())
