from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from slipway.errors import InfrastructureError, UnsupportedError
from slipway.measure import protocol
from slipway.measure.processes import TimedWorker
from tests.unit.measure.participants import Behaviour, gone, stand_in

LOAD = protocol.Load(threads=1, batch=1)
READY = "import sys, time; print('{\"ready\": true}', flush=True); "


def worker(behaviour: Behaviour, timeout_seconds: float = 30) -> TimedWorker:
    return TimedWorker("w", stand_in("w", behaviour).argv, os.sched_getaffinity(0), timeout_seconds)


def script(code: str, timeout_seconds: float = 30) -> TimedWorker:
    return TimedWorker("w", [sys.executable, "-c", READY + code], os.sched_getaffinity(0), timeout_seconds)


def test_a_worker_runs_on_the_given_cpus_and_this_thread_stays_where_it_was(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    argv = stand_in("w", Behaviour(journal=str(tmp_path / "journal"))).argv
    cpu = max(before)
    with TimedWorker("w", argv, {cpu}, 30) as process:
        process.ready()
    (facts,) = (json.loads(line) for line in (tmp_path / "journal").read_text().splitlines())
    assert facts["cpus"] == [cpu]
    assert os.sched_getaffinity(0) == before


def test_closing_ends_the_process_and_what_it_started(tmp_path: Path) -> None:
    with worker(Behaviour(journal=str(tmp_path / "journal"))) as process:
        process.ready()
        facts = json.loads((tmp_path / "journal").read_text())
        assert psutil.pid_exists(facts["child"])
    assert gone(facts["pid"])
    assert gone(facts["child"])


def test_peak_memory_is_the_worker_s_own() -> None:
    """The kernel's ru_maxrss would be at least this process's memory, which the child shares before exec."""
    ballast = bytearray(os.urandom(1)) * 400_000_000
    with worker(Behaviour()) as process:
        process.ready()
        process.ask(LOAD, protocol.Loaded)
        assert process.ask(protocol.Finish(), protocol.Finished).peak_rss_bytes < len(ballast)


def test_an_error_of_slipway_s_keeps_its_class() -> None:
    with worker(Behaviour(unsupported=True)) as process:
        process.ready()
        with pytest.raises(UnsupportedError, match="no int8 kernels"):
            process.ask(LOAD, protocol.Loaded)


def test_any_other_error_names_its_class_and_what_was_asked() -> None:
    line = protocol.Failed(kind="KeyError", error="'x'").model_dump_json()
    with script(f"print({line!r}, flush=True); time.sleep(60)") as process:
        process.ready()
        with pytest.raises(InfrastructureError, match="failed to load: KeyError: 'x'"):
            process.ask(LOAD, protocol.Loaded)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("sys.exit('no such library')", "when asked to load: exit status 1; no such library"),
        ("import os; os.kill(os.getpid(), 9)", r"when asked to load: signal 9 \(Killed\)"),
        ("print('{}', flush=True); time.sleep(60)", "asked to load and answered '{}'"),
        ("print('hello', flush=True); time.sleep(60)", "asked to load and answered 'hello'"),
    ],
)
def test_death_and_nonsense_are_told_with_the_reason(code: str, message: str) -> None:
    with script(code) as process:
        process.ready()
        with pytest.raises(InfrastructureError, match=message):
            process.ask(LOAD, protocol.Loaded)


def test_a_worker_that_does_not_answer_in_time_is_given_up() -> None:
    with script("time.sleep(60)", timeout_seconds=0.5) as process:
        process.ready()
        with pytest.raises(InfrastructureError, match=r"did not load within 0\.5 s: its engine hangs, or the host is"):
            process.ask(LOAD, protocol.Loaded)


def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(InfrastructureError, match="worker w cannot be started"):
        TimedWorker("w", ["/no/such/command"], os.sched_getaffinity(0), 1)


def test_a_worker_whose_session_is_killed_ends_by_itself(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    argv = stand_in("w", Behaviour(journal=str(journal))).argv
    code = (
        "import os, time; from slipway.measure.processes import TimedWorker; "
        f"w = TimedWorker('w', {argv!r}, os.sched_getaffinity(0), 30); w.ready(); "
        "print('up', flush=True); time.sleep(60)"
    )
    with psutil.Popen([sys.executable, "-c", code], stdout=-1) as session:
        assert session.stdout.readline() == b"up\n"
        session.send_signal(signal.SIGKILL)
    facts = json.loads(journal.read_text())
    os.kill(facts["child"], signal.SIGKILL)
    assert gone(facts["pid"])
