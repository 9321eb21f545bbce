"""How a long command ends before its time: on Ctrl-C or SIGTERM within seconds, killed without leaving processes."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
import uuid
from pathlib import Path
from types import FrameType

INTERRUPTED_EXIT_CODE = 130
GRACE_SECONDS = 2.0
MARK = "SLIPWAY_COMMAND"


@functools.cache
def prepare() -> None:
    """Let Ctrl-C and SIGTERM end this process in seconds with exit code 130, and its descendants with it.

    They end with it however it ends. Prefect's temporary server is a child that ends only if its parent tells it to. A
    signal to the process group reaches it too, and then Prefect would try for minutes to tell the dead server that the
    run was interrupted.
    """
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, lambda *_: None)
    # During a flow run Prefect puts a handler of its own in this one's place; the byte is written whoever handles it.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_await_sigterm, args=(reading,), daemon=True).start()
    mark = uuid.uuid4().hex
    reader, _ = os.pipe()  # this process alone holds the other end, until it ends
    command = [sys.executable, "-I", __file__, f"{MARK}={mark}"]
    own_streams = [(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    os.posix_spawn(sys.executable, command, os.environ, file_actions=own_streams, setsid=True)
    os.close(reader)
    os.environ[MARK] = mark


def _await_sigterm(reading: int) -> None:
    while signal.SIGTERM not in os.read(reading, 64):
        pass
    os.kill(os.getpid(), signal.SIGINT)  # ends it as Ctrl-C does


def _interrupted(_: int, __: FrameType | None) -> None:
    from slipway.cli.console import tell  # here, since the guardian runs this file and needs none of it

    logging.disable()
    tell("interrupted; what is finished is kept, and the same command goes on from there")
    ending = threading.Timer(GRACE_SECONDS, _end_now)
    ending.daemon = True
    ending.start()
    raise KeyboardInterrupt


def _end_now() -> None:
    from slipway.cli.console import err

    err.show_cursor()  # the live table hides it
    os._exit(INTERRUPTED_EXIT_CODE)


def end_marked(mark: str) -> None:
    """Kill every process whose environment holds ``mark``, which all descendants of a command inherit."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes().split(b"\0"):
                os.kill(int(environment.parent.name), signal.SIGKILL)
        except OSError:  # somebody else's process, or one that has ended
            continue


if __name__ == "__main__":
    sys.stdin.read()  # until the command has ended
    end_marked(sys.argv[1])
