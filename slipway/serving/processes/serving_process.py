"""The process that answers, as the one that supervises it sees it."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress

from slipway.records import Record
from slipway.serving.processes.messages import REPORTS, Channel, Report

COMMAND = (sys.executable, "-P", "-m", "slipway.serving")
SEND_SECONDS = 30
EXIT_SECONDS = 10.0


class ServingProcess:
    """One process that answers, and the channel to it; it ends by itself if this one does."""

    def __init__(self, listening: socket.socket, log: int | None) -> None:
        own, its = socket.socketpair()
        descriptors = [its.fileno(), listening.fileno(), *([] if log is None else [log])]
        try:
            self._process = subprocess.Popen(
                [*COMMAND, *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C is for this process, which then tells that one
            )
        except OSError:
            own.close()
            raise
        finally:
            its.close()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_SECONDS, 0))
        self.channel: Channel[Report] = Channel(own, REPORTS)
        self.started = time.monotonic()
        self.ready = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, message: Record) -> None:
        """Send; what takes nothing is killed, and found dead then."""
        try:
            self.channel.send(message)
        except OSError:
            self._process.kill()

    def kill(self) -> int:
        """End it at once, if it has not ended by itself; its exit status, negative for a signal."""
        self._process.kill()
        self.channel.close()
        return self._process.wait()

    def ended(self) -> int:
        """The exit status of a process that has closed its end of the channel."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_SECONDS)
        return self.kill()


def how(status: int) -> str:
    """How a process ended, in words."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
