from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from slipway.steps import progress
from slipway.steps.isolated import isolated
from slipway.steps.progress import Event, meter, tell


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "slipway.progress")


def told(caplog: pytest.LogCaptureFixture) -> list[Event]:
    return [record.__dict__["event"] for record in caplog.records]


def test_a_meter_tells_some_of_what_it_hears(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([10.0, 10.1, 10.3])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    report = meter("fp32/torch", "validate")
    for share in (0.1, 0.2, 0.3):
        report(share)

    assert [event.share for event in told(caplog)] == [0.1, 0.3]


def test_an_event_reads_as_a_sentence_too(caplog: pytest.LogCaptureFixture) -> None:
    tell(Event("bf16/torch", "build", "SKIPPED", "no bfloat16"))
    tell(Event("bf16/torch", "build", "done"))

    assert [record.getMessage() for record in caplog.records] == [
        "bf16/torch: build SKIPPED (no bfloat16)",
        "bf16/torch: build done",
    ]


def tells(word: str) -> str:
    tell(Event("fp32/torch", "validate", "running", word, share=0.5))
    return word


def test_progress_of_an_isolated_step_is_told_here(caplog: pytest.LogCaptureFixture) -> None:
    assert isolated(tells)("half") == "half"
    assert told(caplog) == [Event("fp32/torch", "validate", "running", "half", 0.5)]
