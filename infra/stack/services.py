"""One server of the stack: started, watched, stopped, killed, and started again on the same port and data."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.stack.layout import Layout, is_free
from infra.stack.processes import Daemon, Program, listener
from slipway.errors import BadInputError, InfrastructureError

STOP_SECONDS = 20.0
LOOK_SECONDS = 0.1
RELEASE_SECONDS = 5.0
TAIL_LINES = 15
LOG_BYTES = 10_000_000


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Recipe:
    """How one server is run.

    ``answers`` tells whether it does, given when it was started in Unix seconds; ``prepare`` writes what it reads, and
    ``furnish`` makes in it what the others need; both may be repeated. ``alone`` sends the signal that ends it to its
    first process only.
    """

    name: str
    command: Callable[[], Sequence[str]]
    answers: Callable[[float], bool]
    needs: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    prepare: Callable[[], None] = _nothing
    furnish: Callable[[], None] = _nothing
    user: str | None = None
    held: Path | None = None
    ends_on: signal.Signals = signal.SIGTERM
    alone: bool = False
    patience_seconds: float = 180.0


class Service:
    """A server as a process in the background; whoever knows its folder can find and end it."""

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        self.name, self.recipe = recipe.name, recipe
        self._layout = layout
        self._given_up = threading.Event()
        self._daemon = Daemon(layout.run(self.name), f"{layout.folder}:{self.name}")

    @property
    def running(self) -> bool:
        """Whether its process runs; it may not answer yet."""
        return self._daemon.made is not None

    @property
    def answers(self) -> bool:
        """Whether it runs and does its work."""
        made = self._daemon.made
        return made is not None and self._answers(made.created)

    @property
    def pid(self) -> int | None:
        """Its first process."""
        made = self._daemon.made
        return made.pid if made else None

    @property
    def log_file(self) -> Path:
        """Where it prints."""
        return self._layout.log(self.name)

    @property
    def log(self) -> str:
        """What it printed so far."""
        try:
            return self.log_file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def processes(self) -> set[psutil.Process]:
        """All its processes."""
        return self._daemon.processes()

    def start(self) -> None:
        """Start it where it does not run, and return when it answers.

        Raises:
            BadInputError: one of its ports is taken, or its program is missing.
            InfrastructureError: it ended, or did not answer in time; its log's end is told.
        """
        self._given_up.clear()
        if not self.running:
            left = self.processes()
            self._daemon.end(signal.SIGKILL, to_all=True, within_seconds=0)  # what a killed one left behind
            self._check_ports(RELEASE_SECONDS if left else 0)
            self._launch()
        self._await()
        self.recipe.furnish()

    def give_up(self) -> None:
        """Let a ``start`` in another thread return without waiting any longer."""
        self._given_up.set()

    def stop(self) -> None:
        """End it as its own manual says, and kill what has not ended in time; harmless where it does not run."""
        self._daemon.end(self.recipe.ends_on, to_all=not self.recipe.alone, within_seconds=STOP_SECONDS)

    def kill(self) -> None:
        """End it and all that it started with SIGKILL, as a fault would."""
        self._daemon.end(signal.SIGKILL, to_all=True, within_seconds=0)

    def memory_bytes(self) -> int:
        """What its processes hold in memory; pages that several share are counted once where Linux tells."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                try:
                    total += process.memory_full_info().pss
                except psutil.AccessDenied:
                    total += process.memory_info().rss
        return total

    def _launch(self) -> None:
        self.recipe.prepare()
        directory = self.recipe.directory or self._layout.data(self.name)
        directory.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".old.txt"))
        recipe = self.recipe
        self._daemon.launch(
            Program(recipe.command(), directory, recipe.environment, self.log_file, recipe.user, recipe.held)
        )

    def _check_ports(self, within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds  # the last thread of a killed process holds its port a moment on
        for name, port in self.recipe.ports.items():
            while not (free := is_free(port)) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
            if not free:
                raise BadInputError(
                    f"port {port}, where {name} would listen, is taken by {listener(port)}; end that, or choose "
                    f"another port, which is then kept: python -m infra.stack up --port {name}=NUMBER"
                )

    def _await(self) -> None:
        deadline = time.monotonic() + self.recipe.patience_seconds
        while True:
            made = self._daemon.made
            if made is None:
                code = self._daemon.exit_code
                self.kill()
                raise InfrastructureError(f"{self.name} ended{'' if code is None else f' with {code}'}; {self._tail()}")
            if self._answers(made.created):
                return
            if self._given_up.is_set():
                raise InfrastructureError(f"nobody waits for {self.name} any longer; it goes on to start")
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"{self.name} did not answer within {self.recipe.patience_seconds:.0f} s; {self._tail()}"
                )
            time.sleep(LOOK_SECONDS)

    def _answers(self, created: float) -> bool:
        return self.recipe.answers(created)

    def _tail(self) -> str:
        lines = self.log.strip().splitlines()[-TAIL_LINES:]
        return "\n".join((f"its log {self.log_file} ends:", *lines)) if lines else f"its log {self.log_file} is empty"
