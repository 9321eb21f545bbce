"""Steps that do what a native runtime may do; importable by the child process that runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from slipway.errors import SlipwayError


class UnpicklableError(Exception):
    """An exception that does not survive a pickle: its constructor wants two arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first}\n{second}")


def joined(first: str, *, second: str) -> tuple[str, int]:
    """An ordinary step; also tells its process."""
    return f"{first}-{second}", os.getpid()


def refuse(kind: type[SlipwayError]) -> None:
    """End with one of Slipway's own errors."""
    raise kind(f"a message of {kind.__name__}; do this")


def break_down() -> None:
    """End with an exception of some library."""
    raise UnpicklableError("the first line", "a line of no interest")


def break_down_without_a_word() -> None:
    """End with an exception without a message."""
    raise ZeroDivisionError


def crash(with_signal: signal.Signals) -> None:
    """Say something from below Python, and die."""
    os.write(2, b"some runtime: starting\nsome runtime: bad instruction\n\n")
    os.kill(os.getpid(), with_signal)


def leave(status: int) -> None:
    """End the process as a runtime does that calls exit()."""
    os._exit(status)


def hang(process_id: Path) -> None:
    """Never end, not even when asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    process_id.write_text(str(os.getpid()))
    time.sleep(600)


def hang_in_a_compiler(process_id: Path) -> None:
    """Wait for a process that never ends, as for a compiler."""
    with subprocess.Popen(["sleep", "600"]) as compiler:
        process_id.write_text(str(compiler.pid))


def places_of_output() -> list[str]:
    """What file descriptors 1 and 2 are, after printing on both."""
    os.write(1, b"printed from C\n")
    sys.stdout.write("printed from Python\n")
    return [str(Path(f"/proc/self/fd/{number}").readlink()) for number in (1, 2)]
