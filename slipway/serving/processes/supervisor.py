"""Keeps a process that answers alive: starts it, starts it anew when it dies, and lets it end in order."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from slipway.errors import InfrastructureError
from slipway.records import Record
from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.http.limits import Limits
from slipway.serving.processes.following import Change
from slipway.serving.processes.ledger import Ledger
from slipway.serving.processes.messages import (
    Answer,
    Closed,
    End,
    Opened,
    Reach,
    Ready,
    Refuse,
    Refused,
    Report,
    Swap,
    Unload,
)
from slipway.serving.processes.refusals import error_of
from slipway.serving.processes.serving_process import ServingProcess, how

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0
STEADY_SECONDS = 60.0  # who has lived so long begins anew with the shortest pause
SPARE_SECONDS = 10.0  # beyond what the process itself allows its connections and its engines


class Supervisor:
    """Serves what `submit` and `open` say, on ``listening``, whose backlog holds new connections while nobody answers.

    ``tell`` is given lines for a person. A context manager, which leaves no process behind.
    """

    def __init__(
        self, listening: socket.socket, limits: Limits, folder: Path, log: int | None, tell: Callable[[str], object]
    ) -> None:
        self._listening, self._limits, self._log = listening, limits, log
        self._tell = tell
        self._lost: Callable[[str], None] = lambda _: None
        self._ledger = Ledger(folder)
        self._changes: SimpleQueue[Change] = SimpleQueue()
        self._later: list[Swap | Refuse | Unload | Reach] = []
        self._process: ServingProcess | None = None
        self._restarts, self._deaths, self._start_at = 0, 0, 0.0
        self._ends, self._at_once, self._end_by, self._status = False, False, float("inf"), 0
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
        self._selector.close()
        os.close(self._woken)
        os.close(self._waker)

    @property
    def pid(self) -> int | None:
        """The process that answers; None while there is none."""
        return self._process.pid if self._process else None

    def open(self, engines: Iterable[LocalEngine]) -> dict[str, tuple[str, ...]]:
        """Start the process with these engines; what a person should know of each, by its model's name.

        Raises:
            SlipwayError: one of them could not be opened.
            InfrastructureError: the process died.
        """
        first = tuple(engines)
        for engine in first:
            self._ledger.begin(engine)
        process = self._begin()
        notes: dict[str, tuple[str, ...]] = {}
        for report in process.channel.each():
            match report:
                case Refused():
                    raise error_of(report, self._ledger[report.order])
                case Opened():
                    notes[self._ledger[report.order].name] = report.notes
                case Ready():
                    process.ready = True
                    return notes
        status = process.ended()
        opening = next((str(engine) for engine in first if engine.name not in notes), "the engines")
        raise InfrastructureError(f"the serving process {how(status)} while it opened {opening}")

    def run(self, lost: Callable[[str], None]) -> int:
        """Let the process answer, and a new one whenever it died, until `end`; the exit status.

        ``lost`` is given the name of a model that a new process could not open again: its files went bad on disk.
        """
        self._lost = lost
        self._send(Answer())
        while True:
            for key, _ in self._selector.select(self._wait_seconds()):
                if key.fd == self._woken:
                    os.read(self._woken, 1 << 16)
                elif self._process is not None:
                    self._hear(self._process)
            while not self._changes.empty():
                self._change(self._changes.get())
            if self._ends:
                status = self._ending()
                if status is not None:
                    return status
            elif self._process is None and time.monotonic() >= self._start_at:
                self._restart()

    def submit(self, change: Change) -> None:
        """Let something be done by `run`; may be called from any thread."""
        self._changes.put(change)
        self._wake()

    def end(self, at_once: bool = False) -> None:
        """Let `run` end once all is answered that was taken, or ``at_once``; may be called from a signal's handler."""
        self._ends, self._at_once = True, self._at_once or at_once
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it will wake up anyway
            os.write(self._waker, b"w")

    def _wait_seconds(self) -> float | None:
        until = self._end_by if self._ends else (self._start_at if self._process is None else float("inf"))
        return None if until == float("inf") else max(until - time.monotonic(), 0)

    def _begin(self) -> ServingProcess:
        self._process = ServingProcess(self._listening, self._log)
        self._selector.register(self._process.channel, selectors.EVENT_READ)
        self._send(self._ledger.start(self._limits, self._restarts))
        return self._process

    def _send(self, message: Record) -> None:
        if self._process is not None:
            self._process.send(message)

    def _hear(self, process: ServingProcess) -> None:
        reports = process.channel.receive()
        if reports is None:
            self._selector.unregister(process.channel)
            self._died(process)
            return
        for report in reports:
            self._note(report, process)

    def _note(self, report: Report, process: ServingProcess) -> None:
        match report:
            case Opened():
                self._opened(report, process)
            case Refused():
                self._refused(report, process)
            case Closed():
                self._ledger.closed(report.order)
            case Ready():
                process.ready = True
                self._tell(f"answering again, after {self._restarts} new starts")
                for message in (Answer(), *self._unsent()):
                    process.send(message)

    def _opened(self, report: Opened, process: ServingProcess) -> None:
        engine = self._ledger[report.order]
        self._ledger.opened(report.order)
        if process.ready:
            self._tell(f"{engine} ({str(engine.evidence.digest)[:12]}) serves from now on")
            for note in report.notes:
                self._tell(f"{engine}: {note}")

    def _refused(self, report: Refused, process: ServingProcess) -> None:
        engine = self._ledger[report.order]
        self._ledger.refused(report.order, f"version {engine.version} is refused: {report.error}")
        self._tell_refusal(engine.name, f"version {engine.version} is refused: {report.error}")
        if not process.ready:  # it was opened before: only its files can have changed
            self._lost(engine.name)

    def _tell_refusal(self, name: str, reason: str) -> None:
        serving = self._ledger.serving(name)
        self._tell(f"{name}: {reason}; " + (f"version {serving.version} serves on" if serving else "nothing serves it"))

    def _change(self, change: Change) -> None:
        match change:
            case str():
                self._tell(change)
                return
            case Swap():
                self._ledger.want(change.engine)
            case Refuse():
                self._ledger.refuse(change.name, change.reason)
                self._tell_refusal(change.name, change.reason)
            case Unload():
                self._ledger.unload(change.name)
                self._tell(f"{change.name} is served no more")
            case Reach():
                down = f"cannot be asked, serving goes on: {change.reason}"
                self._tell(f"the registry {'can be asked again' if change.reason is None else down}")
        if self._process is not None and self._process.ready:
            self._process.send(change)
        else:
            self._later.append(change)

    def _unsent(self) -> list[Swap | Refuse | Unload | Reach]:
        """What a new process has to do: first the swaps that the former one left undone, then what came meanwhile."""
        later, self._later = self._later, []
        wanted = {engine.order: Swap(engine=engine) for engine in self._ledger.wanted}
        came = {change.engine.order for change in later if isinstance(change, Swap)}
        undone = [swap for order, swap in wanted.items() if order not in came]
        for order in came - wanted.keys():
            self._ledger.closed(order)
        return undone + [one for one in later if not isinstance(one, Swap) or one.engine.order in wanted]

    def _restart(self) -> None:
        self._restarts += 1
        try:
            self._begin()
        except OSError as error:  # too many processes, or too little memory
            self._deaths += 1
            self._pause(f"cannot be started: {error.strerror}")

    def _pause(self, reason: str) -> None:
        pause = min(SHORTEST_PAUSE_SECONDS * 2 ** (self._deaths - 1), LONGEST_PAUSE_SECONDS)
        self._start_at = time.monotonic() + pause
        self._tell(f"the serving process {reason}; it is started anew in {pause:g} s")

    def _died(self, process: ServingProcess) -> None:
        lived_seconds = time.monotonic() - process.started
        status, self._process = process.ended(), None
        if self._ends:
            self._status = status
            return
        self._deaths = 1 if lived_seconds >= STEADY_SECONDS else self._deaths + 1
        self._pause(how(status))
        engine = self._ledger.died(ready=process.ready)
        if engine is not None:
            reason = f"version {engine.version} is refused: the serving process died each time while it was opened"
            self._ledger.refused(engine.order, reason)
            self._change(Refuse(name=engine.name, reason=reason, outcome="crashed"))

    def _ending(self) -> int | None:
        """Go on towards the end; the exit status once it is reached."""
        if self._end_by == float("inf"):
            self._listening.close()
            self._end_by = time.monotonic() + 2 * self._limits.drain_seconds + SPARE_SECONDS
            if self._process is not None and not self._process.ready:
                self._process.kill()  # it has taken nothing
                return 0
            self._send(End())
        if self._process is None:
            if self._status not in {0, InfrastructureError.exit_code}:  # with that one it tells by itself
                self._tell(f"the serving process {how(self._status)} before it had answered everything")
            return 0 if self._status == 0 else InfrastructureError.exit_code
        if self._at_once or time.monotonic() >= self._end_by:
            self._process.kill()
            self._tell("ended before everything was answered")
            return InfrastructureError.exit_code
        return None
