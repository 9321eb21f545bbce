from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from slipway.errors import InfrastructureError
from slipway.rollout.gateway import child as gateway_child
from slipway.rollout.gateway.child import Child, Repeated


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, told: list[str]) -> Iterator[Callable[[str], Child]]:
    made: list[Child] = []

    def child(program: str) -> Child:
        made.append(Child("the server", [sys.executable, "-c", program], tmp_path / "log.txt", told.append))
        return made[-1]

    yield child
    for one in made:
        one.end(0)


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


SLEEPS = "import time; print('up', flush=True); time.sleep(600)"


def test_a_program_that_dies_is_started_again_after_growing_pauses(
    make: Callable[[str], Child], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_child, "FIRST_PAUSE_SECONDS", 0.01)
    child = make("import sys; print('out of luck'); sys.exit(7)")
    child.start()

    def keep() -> int:
        child.keep_running()
        return len(told)

    wait_for(lambda: keep() >= 3)
    assert told[:3] == [
        f"the server ended (exit status 7; out of luck); it is started again in {pause} s"
        for pause in (0.01, 0.02, 0.04)
    ]


def test_a_killed_program_comes_back_and_what_it_had_started_is_gone(
    make: Callable[[str], Child], told: list[str], tmp_path: Path
) -> None:
    child = make(f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); time.sleep(600)")
    child.start()
    assert child.pid is not None
    process = psutil.Process(child.pid)
    wait_for(lambda: "up" in (tmp_path / "log.txt").read_text())
    (grandchild,) = process.children()
    process.kill()

    def again() -> bool:
        child.keep_running()
        return child.pid not in {None, process.pid}

    wait_for(again)
    wait_for(lambda: not runs(grandchild))
    assert told[0].startswith("the server ended (signal 9; up)")


def test_a_program_that_is_ended_stays_ended(make: Callable[[str], Child], told: list[str]) -> None:
    child = make(SLEEPS)
    child.start()
    assert child.wanted
    child.end(30)
    child.keep_running()

    assert (child.wanted, child.pid, told) == (False, None, [])


def test_a_program_that_will_not_end_is_killed_while_the_others_are_looked_after(
    make: Callable[[str], Child], tmp_path: Path
) -> None:
    child = make(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}")
    child.start()
    wait_for(lambda: "up" in (tmp_path / "log.txt").read_text())
    begun_s = time.monotonic()
    child.ask_to_end(0.5)
    child.keep_running()
    assert time.monotonic() - begun_s < 0.4
    assert child.pid is not None

    def gone() -> bool:
        child.keep_running()
        return not child.wanted

    wait_for(gone)


def test_a_program_that_does_not_exist_is_told(tmp_path: Path) -> None:
    child = Child("Envoy", [str(tmp_path / "missing")], tmp_path / "log.txt", print)
    with pytest.raises(InfrastructureError, match=r"cannot start Envoy: .*No such file"):
        child.start()
    child.end(0)


def test_a_signal_to_the_terminals_group_does_not_reach_it(make: Callable[[str], Child]) -> None:
    child = make(SLEEPS)
    child.start()
    assert child.pid is not None
    assert os.getpgid(child.pid) == child.pid != os.getpgrp()


def test_a_call_is_repeated_whatever_it_raises_and_an_error_is_told_once(told: list[str]) -> None:
    calls: list[int] = []
    errors: list[Exception | None] = [InfrastructureError("away"), InfrastructureError("away"), None, ValueError("odd")]

    def call() -> None:
        calls.append(1)
        error = errors[len(calls) - 1] if len(calls) <= len(errors) else None
        if error is not None:
            raise error

    repeated = Repeated("watch", call, 0.001, told.append)
    wait_for(lambda: len(calls) >= 6)
    repeated.end(10)

    assert told == ["watch: away", "watch: ValueError: odd"]


def test_a_call_that_hangs_holds_up_nobody() -> None:
    released = threading.Event()
    repeated = Repeated("watch", lambda: released.wait(30) and None, 0.001, print)
    begun_s = time.monotonic()
    repeated.end(0.05)
    assert time.monotonic() - begun_s < 10
    released.set()
    repeated.end(10)
