from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from slipway.cli.ending import MARK, end_marked

STARTS_A_CHILD = """
import signal, subprocess, sys, time
from slipway.cli import ending
ending.prepare()
signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect puts one of its own there
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""
INTERRUPTED_IN_AN_IMPORT = """
import signal, sys
from slipway.cli import main

class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
main()
"""


@pytest.fixture
def command() -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A command that prepared its ending, and a child of it in a session of its own."""
    with subprocess.Popen([sys.executable, "-c", STARTS_A_CHILD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        yield process, child
        process.kill()
        with suppress(psutil.NoSuchProcess):
            child.kill()


def test_a_killed_command_takes_its_children_with_it(
    command: tuple[subprocess.Popen[str], psutil.Process],
) -> None:
    process, child = command
    process.kill()
    process.wait()

    child.wait(timeout=10)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_a_command_and_its_children(
    sent: signal.Signals, command: tuple[subprocess.Popen[str], psutil.Process]
) -> None:
    process, child = command
    started = time.monotonic()
    process.send_signal(sent)
    process.wait(timeout=10)

    child.wait(timeout=10)
    assert time.monotonic() - started < 10


def test_ctrl_c_while_the_command_is_imported_shows_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_IN_AN_IMPORT], capture_output=True, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def test_only_marked_processes_are_ended() -> None:
    sleeping = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with (
        subprocess.Popen(sleeping, env={**os.environ, MARK: "one"}, stdout=subprocess.PIPE) as marked,
        subprocess.Popen(sleeping, env={**os.environ, MARK: "oneself"}, stdout=subprocess.PIPE) as other,
    ):
        for process in (marked, other):
            assert process.stdout is not None
            process.stdout.readline()

        end_marked(f"{MARK}=one")

        assert marked.wait(timeout=10) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
