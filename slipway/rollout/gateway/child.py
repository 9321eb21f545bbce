"""A program that the gateway keeps running, and a call that it repeats; neither can bring it down."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from slipway.errors import InfrastructureError, first_line

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0


class Child:
    """A program in a process group of its own, started again after growing pauses whenever it ends.

    What it prints is kept in ``log``, of its last run alone. ``tell`` is told each end that nobody asked for.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, tell: Callable[[str], None]) -> None:
        self.name = name
        self._command = list(command)
        self._log = log
        self._tell = tell
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._next_s = 0.0
        self._deadline_s: float | None = None

    @property
    def pid(self) -> int | None:
        """The process; None where none runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def wanted(self) -> bool:
        """Whether it was started, and not ended by us."""
        return self._process is not None

    @property
    def exit_status(self) -> int | None:
        """With what it ended; None where it runs or was never started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it.

        Raises:
            InfrastructureError: there is no such program.
        """
        try:
            self._log.write_bytes(b"")
            with self._log.open("ab") as log:  # so that it can be cut while it is written
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise InfrastructureError(f"cannot start {self.name}: {error}; check the installation") from error
        self._started_s = time.monotonic()

    def last_words(self) -> str:
        """The last line that it printed, with how it ended."""
        status = self.exit_status
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        lines = (
            self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self._log.exists() else []
        )
        return f"{how}; {lines[-1]}" if lines else how

    def keep_running(self) -> None:
        """Start it again if it has ended and its pause is over, or see to it that it ends where that was asked."""
        now_s = time.monotonic()
        if self._deadline_s is not None:
            if self.exit_status is not None or now_s > self._deadline_s:
                self.end(0)
            return
        if self.exit_status is None:
            return
        if not self._next_s:
            if now_s - self._started_s > STEADY_SECONDS:
                self._pause_seconds = FIRST_PAUSE_SECONDS
            self._tell(f"{self.name} ended ({self.last_words()}); it is started again in {self._pause_seconds:g} s")
            self._next_s = now_s + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        if now_s >= self._next_s:
            self._kill_group()  # what it started may hold its port
            self._next_s = 0.0
            try:
                self.start()
            except InfrastructureError as error:  # the disk may be full for a while
                self._tell(str(error))

    def ask_to_end(self, seconds: float) -> None:
        """Send it SIGTERM; `keep_running` ends it where it takes longer than ``seconds``."""
        if self._process is not None and self._deadline_s is None:
            self._process.terminate()
            self._deadline_s = time.monotonic() + seconds

    def end(self, seconds: float) -> None:
        """End it with SIGTERM, and with SIGKILL, together with all in its group, whatever is left after ``seconds``."""
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(seconds)
        self._kill_group()
        self._process.wait()
        self._process = None
        self._next_s, self._deadline_s = 0.0, None

    def _kill_group(self) -> None:
        assert self._process is not None, "it was started"
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class Repeated:
    """Calls ``call`` every ``seconds`` in a thread of its own; an error is told once, until another one comes.

    A call that hangs in a network holds up nothing but itself.
    """

    def __init__(self, name: str, call: Callable[[], None], seconds: float, tell: Callable[[str], None]) -> None:
        self._name = name
        self._call = call
        self._seconds = seconds
        self._tell = tell
        self._stop = threading.Event()
        self._told: str | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def end(self, seconds: float) -> None:
        """Let it end, and wait for that as long."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._call()
            except Exception as error:  # noqa: BLE001 - traffic goes on whatever becomes of who watches it
                if (said := first_line(error)) != self._told:
                    self._told = said
                    self._tell(f"{self._name}: {said}")
            else:
                self._told = None
            self._stop.wait(self._seconds)
