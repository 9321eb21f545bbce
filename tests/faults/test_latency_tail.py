from __future__ import annotations

import os

import pytest

from slipway.config import SloParams
from slipway.decisions.gates import slo_gates
from slipway.measure.plan import ParticipantTiming, TimingPlan
from slipway.measure.sessions import run_session
from slipway.records import Timing, Verdict
from tests.faults.timed import built, participant

HICCUP_SECONDS = 0.05
SLO = SloParams(latency_p99_ms=25)
SAMPLES = 1400  # blocks of more than 99 calls: each holds three slow ones at least, wherever the warm-up ended


@pytest.fixture(scope="module")
def timings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Timing, Timing]:
    """The same engine file twice, once with a sleep in 3% of its calls."""
    file = built(tmp_path_factory.mktemp("engine"), layers=16)
    slow = participant(file, "slow", "tests.faults.hiccup_engine", ("33", str(HICCUP_SECONDS)))
    plan = TimingPlan(samples=SAMPLES, throughput_seconds=0.02, timeout_seconds=60)
    session = run_session(participant(file, "reference"), [slow], plan, os.sched_getaffinity(0))
    (candidate,) = session.candidates
    assert isinstance(candidate, ParticipantTiming), candidate
    return session.reference.timing, candidate.timing


def test_a_tail_of_slow_calls_fails_the_demand_on_p99(timings: tuple[Timing, Timing]) -> None:
    steady, slow = timings
    assert slow.latency.p99_ms is not None
    assert slow.latency.p99_ms >= 1000 * HICCUP_SECONDS
    assert slow.latency.p99_interval_ms is not None
    assert slow.latency.p99_interval_ms.lower >= 1000 * HICCUP_SECONDS
    gate = slo_gates(SLO, slow, size_bytes=1)["latency_p99_ms"]
    assert gate.verdict is Verdict.FAIL, gate
    assert slo_gates(SLO, steady, size_bytes=1)["latency_p99_ms"].verdict is Verdict.PASS


def test_a_tail_of_slow_calls_leaves_p50_where_it_is(timings: tuple[Timing, Timing]) -> None:
    steady, slow = timings
    assert slow.latency.p50_ms == pytest.approx(steady.latency.p50_ms, rel=0.3)
    assert slow.speedup.value == pytest.approx(1, rel=0.2)
