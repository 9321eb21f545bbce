from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from slipway.decisions.gates import combine, regression_gate, timing_gate
from slipway.measure.plan import ParticipantTiming, TimingPlan
from slipway.measure.sessions import run_session
from slipway.records import Verdict
from tests.faults.timed import built, participant

CPUS = os.sched_getaffinity(0)
# Calls of a few milliseconds, which is about as long as a process may compute before the kernel lets another.
PLAN = TimingPlan(batch=(128,), samples=130, throughput_seconds=0.02, timeout_seconds=60)
SLOWER = 1.25
BURSTS = """
import random, time
rng = random.Random({seed})
while True:
    end = time.monotonic() + rng.uniform(0.05, 0.3)
    while time.monotonic() < end:
        sum(range(1000))
    time.sleep(rng.uniform(0.05, 0.3))
"""


@contextmanager
def load(per_cpu: int) -> Iterator[None]:
    """Neighbours on the same CPUs that compute and rest in turns of random length."""
    with ExitStack() as neighbours:
        for seed in range(per_cpu * len(CPUS)):
            code = BURSTS.format(seed=seed)
            process = neighbours.enter_context(subprocess.Popen([sys.executable, "-c", code]))
            neighbours.callback(process.kill)
        yield


@pytest.mark.integration
def test_on_a_loaded_host_a_slower_candidate_never_passes_for_as_fast(tmp_path: Path) -> None:
    """Taking turns on the same CPUs, the ratio is told rightly all the same; or nothing is concluded."""
    reference, slower = participant(built(tmp_path, 16), "reference"), participant(built(tmp_path, 20), "slower")
    with load(per_cpu=3):
        (timed,) = run_session(reference, [slower], PLAN, CPUS).candidates
    assert isinstance(timed, ParticipantTiming), timed
    speedup, settled = timed.timing.speedup, timing_gate(timed.timing)
    regression = regression_gate(0.05, speedup)
    assert regression is not None
    decision = combine({"timing": settled, "regression": regression})
    assert decision.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE), decision
    assert speedup.lower < 1 / SLOWER
    assert settled.verdict is Verdict.INCONCLUSIVE or speedup.upper > 0.9 / SLOWER
