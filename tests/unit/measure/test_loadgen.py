from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import BadInputError, InfrastructureError
from slipway.measure import loadgen, protocol
from slipway.measure.loadgen import require_loadgen, run_scenario

CALL_SECONDS = 0.002


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "MIN_SECONDS", 0.3)
    monkeypatch.setattr(loadgen, "MAX_SECONDS", 5.0)


def asked(name: Any, **settings: Any) -> protocol.Scenario:
    expected = {"threads": 1, "batch": 1, "expected_per_s": 1 / CALL_SECONDS, "server_per_s": None}
    return protocol.Scenario(name=name, **{**expected, **settings})


def answers() -> None:
    time.sleep(CALL_SECONDS)


def test_a_single_stream_is_told_by_its_90th_percentile() -> None:
    found = run_scenario(asked("single-stream", batch=4, expected_per_s=4 / CALL_SECONDS), answers)
    assert (found.name, found.percentile, found.valid, found.target_per_s) == ("single-stream", 90, True, None)
    assert found.latency_ms is not None
    assert 1000 * CALL_SECONDS <= found.latency_ms < 10_000 * CALL_SECONDS
    assert found.queries >= 64
    assert found.examples_per_s <= 4 / CALL_SECONDS
    assert found.tool.startswith("MLPerf LoadGen 6.")


def test_a_server_that_keeps_up_is_valid_and_told_by_its_99th_percentile() -> None:
    found = run_scenario(asked("server", server_per_s=300.0), answers)
    assert (found.percentile, found.valid, found.target_per_s) == (99, True, 300.0)
    assert found.latency_ms is not None
    assert found.latency_ms >= 1000 * CALL_SECONDS
    assert found.queries >= 662


def test_a_server_whose_queue_grows_is_invalid() -> None:
    found = run_scenario(asked("server", server_per_s=2000.0), answers)
    assert not found.valid
    assert found.latency_ms is not None
    assert found.latency_ms > 300, "past the shortest run, since no bound was given"
    assert found.examples_per_s <= 1 / CALL_SECONDS


def test_offline_answers_whole_batches_and_tells_their_rate() -> None:
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        answers()

    found = run_scenario(asked("offline", batch=8, expected_per_s=8 / CALL_SECONDS), counted)
    assert (found.percentile, found.latency_ms, found.valid) == (None, None, True)
    assert found.examples_per_s <= 8 / CALL_SECONDS
    assert found.examples_per_s * 0.3 / 8 <= calls


@pytest.mark.parametrize("settings", [{"name": "single-stream"}, {"name": "server", "server_per_s": 300.0}])
def test_an_error_of_the_engine_comes_through(settings: dict[str, Any]) -> None:
    calls = 0

    def fails_later() -> None:
        nonlocal calls
        calls += 1
        if calls > 200:
            raise ArithmeticError("no such kernel")

    with pytest.raises(ArithmeticError, match="no such kernel"):
        run_scenario(asked(**settings), fails_later)


def test_a_log_without_a_result_is_told(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="left no log"):
        loadgen._told(tmp_path / "mlperf_log_detail.txt")


def test_without_loadgen_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_loadgen()
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(BadInputError, match=r"slipway\[loadgen\]"):
        require_loadgen()
