"""Processes that outlive the command that starts them, and are found and ended by another."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from infra.stack.layout import read_json, write_private
from slipway.errors import BadInputError, InfrastructureError

MARK = "SLIPWAY_STACK_SERVICE"
HELD = "{held}"
# The system's clock may be set right between two readings of when a process was made.
CLOCK_SECONDS = 2.0
KILL_SECONDS = 20.0
LOOK_SECONDS = 0.1


class Made(NamedTuple):
    """Which process it is: a pid alone may be another's by now. ``created`` is in Unix seconds.

    ``started`` is the same by a clock that nobody sets, where the system has one: that of the system's start.
    """

    pid: int
    created: float
    started: str | None = None


class Program(NamedTuple):
    """What is run, where, as which user (None: one's own), and where it prints.

    ``held`` is a directory that this process opens for it: in the command, HELD is the path to it.
    """

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    log: Path
    user: str | None = None
    held: Path | None = None


class Daemon:
    """One process with all that it starts, known by a file and by a mark in their environment."""

    def __init__(self, file: Path, mark: str) -> None:
        self._file, self._mark = file, mark
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def made(self) -> Made | None:
        """The process, where it still runs.

        Raises:
            BadInputError: the file names no process.
        """
        kept = read_json(self._file)
        if not {"pid", "created"} <= kept.keys():
            return None
        try:
            made = Made(int(kept["pid"]), float(kept["created"]), kept.get("started"))
        except (TypeError, ValueError) as error:
            raise BadInputError(f"{self._file} names no process: {error}; put it right, or remove it") from error
        return made if self._leader(made) else None

    @property
    def exit_code(self) -> int | None:
        """How it ended, where this process started it."""
        return self._process.poll() if self._process else None

    def launch(self, program: Program) -> Made:
        """Start it in a session of its own.

        Raises:
            BadInputError: its program cannot be run.
        """
        try:
            with program.log.open("ab") as log, holding(program.held) as held:
                self._process = subprocess.Popen(
                    [held.path(word) for word in program.command],
                    cwd=program.directory,
                    env={**program.environment, MARK: self._mark},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=held.numbers,
                    **as_user(program.user),
                )
        except OSError as error:
            who = f" as user {program.user}" if program.user else ""
            raise BadInputError(
                f"cannot run {program.command[0]}{who}: {error.strerror}; install it anew, where that user may read it"
            ) from error
        pid = self._process.pid
        made = Made(pid, psutil.Process(pid).create_time(), _started(pid))
        write_private(self._file, json.dumps(made._asdict()) + "\n")
        return made

    def processes(self) -> set[psutil.Process]:
        """It and all that it has started and that still runs, in whatever session."""
        made, found = self.made, set[psutil.Process]()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark:
                    found.add(process)
        if made is not None:
            # PostgreSQL writes its titles over its environment.
            with contextlib.suppress(psutil.Error):
                leader = psutil.Process(made.pid)
                found |= {leader, *leader.children(recursive=True)}
        return {process for process in found if _runs(process)}

    def end(self, number: signal.Signals, *, to_all: bool, within_seconds: float) -> None:
        """Ask it, or all of them, to end, and kill what has not ended in time.

        Raises:
            InfrastructureError: something could not be killed.
        """
        made, left = self.made, self.processes()
        for process in left:
            if to_all or (made is not None and process.pid == made.pid):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
        left = self._left(left, within_seconds)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if stubborn := self._left(left, KILL_SECONDS):
            told = ", ".join(str(process.pid) for process in stubborn)
            raise InfrastructureError(f"processes {told} of {self._mark} did not end within {KILL_SECONDS:.0f} s")
        self._file.unlink(missing_ok=True)
        if self._process is not None:
            # A child stays until its parent asks how it ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_SECONDS)

    def _left(self, known: set[psutil.Process], within_seconds: float) -> set[psutil.Process]:
        """Who still runs when the time is up; those who were started meanwhile too."""
        deadline = time.monotonic() + within_seconds
        while True:
            known = {process for process in known if _runs(process)} | self.processes()
            if not known or time.monotonic() > deadline:
                return known
            time.sleep(LOOK_SECONDS)

    def _leader(self, made: Made) -> bool:
        if self._process is not None and self._process.pid == made.pid:
            return self._process.poll() is None
        try:
            process = psutil.Process(made.pid)
            if made.started is not None:
                return made.started == _started(made.pid) and _runs(process)
            return abs(process.create_time() - made.created) < CLOCK_SECONDS and _runs(process)
        except psutil.NoSuchProcess:
            return False


def _started(pid: int) -> str | None:
    """When a process was made, in ticks after this start of the system; None where Linux does not tell."""
    try:
        start_of_the_system = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name in parentheses may hold anything; what follows are fields from the third on.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return f"{start_of_the_system} {int(fields[19])}"


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Held(NamedTuple):
    """The numbers of the open files that a process is given: one, or none."""

    numbers: tuple[int, ...] = ()

    def path(self, word: str) -> str:
        """``word`` with the path that leads there whatever its user may walk through."""
        return word.replace(HELD, f"/proc/self/fd/{self.numbers[0]}") if self.numbers else word


@contextlib.contextmanager
def holding(folder: Path | None) -> Iterator[Held]:
    """Open a directory for a process that is started meanwhile."""
    if folder is None:
        yield Held()
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Held((number,))
    finally:
        os.close(number)


def as_user(user: str | None) -> dict[str, Any]:
    """What tells subprocess to run as that user, in none of this one's groups."""
    import pwd

    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def listener(port: int) -> str:
    """Who listens on a port, in words, as far as this user may know."""
    with contextlib.suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                with contextlib.suppress(psutil.Error):
                    return f"process {one.pid} ({psutil.Process(one.pid).name()})"
    return "another process"


def inherited() -> dict[str, str]:
    """This process's environment without what would lead a server to other servers."""
    elsewhere = ("PREFECT_", "MLFLOW_", "_MLFLOW_", "AWS_", "SLIPWAY_", "PG")
    return {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
