from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from slipway.cli import progress as module
from slipway.cli.progress import progress
from slipway.steps.progress import Event, tell


def test_in_a_pipe_progress_is_one_line_per_finished_step_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress():
        tell(Event("bf16/torch", "build", "running", share=0.5))
        tell(Event("bf16/torch", "build", "done"))
        tell(Event("bf16/torch", "validate", "FAIL", "a [reason]"))
    tell(Event("bf16/torch", "benchmark", "done"))

    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split() for line in err.splitlines()] == [
        ["bf16/torch", "build", "done"],
        ["bf16/torch", "validate", "FAIL", "a", "[reason]"],
    ]


def test_on_a_terminal_each_candidate_is_one_live_line_with_a_bar_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "err", Console(file=screen, force_terminal=True, width=100))
    clock = iter(range(100, 1000, 10))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))

    with progress():
        tell(Event("fp32/torch", "validate", "running", share=0.0))
        tell(Event("fp32/torch", "validate", "running", share=0.25))
    shown = screen.getvalue()
    assert "fp32/torch" in shown
    assert "25%" in shown
    assert "s left" in shown
    assert "0%  0 s left" not in shown
