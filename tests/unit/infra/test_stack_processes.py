"""Processes in the background: found, ended whole, and never mistaken for another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.stack.processes import Daemon, Made, Program
from slipway.errors import BadInputError

# A child in a session of its own, as a flow run's is, and neither ends when it is asked to.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(60)
"""
WAIT_SECONDS = 20.0


class Room:
    """A place for one daemon."""

    def __init__(self, root: Path) -> None:
        self.root, self.file, self.log = root, root / "pid.json", root / "log.txt"
        self.daemon = Daemon(self.file, str(root))

    def launch(self, *command: str, environment: dict[str, str] | None = None) -> Made:
        return self.daemon.launch(Program(command, self.root, {**os.environ, **(environment or {})}, self.log))

    def other(self) -> Daemon:
        """As another command finds it."""
        return Daemon(self.file, str(self.root))

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.daemon.end(signal.SIGKILL, to_all=True, within_seconds=0)


def test_another_command_finds_and_ends_it(room: Room) -> None:
    made = room.launch("sleep", "60")
    assert room.file.stat().st_mode & 0o777 == 0o600
    assert room.other().made == made
    assert {process.pid for process in room.other().processes()} == {made.pid}

    room.other().end(signal.SIGTERM, to_all=True, within_seconds=10)

    assert room.other().made is None
    assert room.daemon.exit_code == -signal.SIGTERM
    assert not room.file.exists()


def test_what_ignores_the_request_is_killed_with_all_it_started(room: Room) -> None:
    room.launch(sys.executable, "-c", STUBBORN)
    room.wait_for_log("up")
    processes = room.daemon.processes()
    assert len(processes) == 2

    room.daemon.end(signal.SIGTERM, to_all=True, within_seconds=0.3)

    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_what_outlives_its_parent_is_found(room: Room) -> None:
    made = room.launch(sys.executable, "-c", STUBBORN)
    room.wait_for_log("up")
    psutil.Process(made.pid).kill()
    deadline = time.monotonic() + WAIT_SECONDS
    while room.daemon.made is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (left,) = room.daemon.processes()
    assert left.pid != made.pid

    room.daemon.end(signal.SIGKILL, to_all=True, within_seconds=0)

    assert not room.daemon.processes()


def test_a_pid_that_is_another_s_by_now_is_left_alone(room: Room) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        created = psutil.Process(stranger.pid).create_time()
        room.file.write_text(json.dumps({"pid": stranger.pid, "created": created - 60}))
        assert room.daemon.made is None

        room.daemon.end(signal.SIGKILL, to_all=True, within_seconds=0)

        assert stranger.poll() is None
        stranger.kill()


def test_it_is_found_after_the_clock_was_set(room: Room) -> None:
    """By its file alone, as PostgreSQL, which writes over its environment."""
    made = room.launch("env", "--ignore-environment", "sleep", "60")
    kept = json.loads(room.file.read_text())
    room.file.write_text(json.dumps(kept | {"created": kept["created"] - 3600}))
    other = room.other()
    assert other.made is not None

    other.end(signal.SIGTERM, to_all=True, within_seconds=WAIT_SECONDS)

    assert room.daemon.exit_code == -signal.SIGTERM, made
    assert not room.file.exists()


def test_a_pid_of_before_the_system_s_start_is_another_s(room: Room) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        created = psutil.Process(stranger.pid).create_time()
        kept = {"pid": stranger.pid, "created": created, "started": "another-start 4711"}
        room.file.write_text(json.dumps(kept))
        assert room.daemon.made is None
        stranger.kill()


def test_it_has_no_terminal_and_a_session_of_its_own(room: Room) -> None:
    made = room.launch("sleep", "60")
    assert os.getsid(made.pid) == made.pid
    assert Path(f"/proc/{made.pid}/fd/0").readlink() == Path("/dev/null")


def test_a_program_that_is_missing_is_told(room: Room) -> None:
    with pytest.raises(BadInputError, match="cannot run no-such-program: No such file or directory; install it"):
        room.launch("no-such-program")


@pytest.mark.parametrize("kept", ['{"pid": "x", "created": 1.0}', '{"pid": 1, "created": null}'])
def test_a_file_that_names_no_process_is_told(room: Room, kept: str) -> None:
    room.file.write_text(kept, encoding="utf-8")

    with pytest.raises(BadInputError, match=r"pid\.json names no process: .*; put it right, or remove it"):
        _ = room.daemon.made
    room.file.unlink()
