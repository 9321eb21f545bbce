"""One worker process as its session sees it: started on given CPUs, asked, and never left behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Self, TypeVar, cast

from pydantic import ValidationError

from slipway import errors
from slipway.errors import InfrastructureError, SlipwayError
from slipway.measure import protocol
from slipway.records import Record

_EXIT_SECONDS = 10.0
_SHOWN_CHARACTERS = 200
Answer = TypeVar("Answer", bound=Record)


class TimedWorker:
    """A process started from ``argv``, which runs `slipway.measure.worker.serve`; a context manager.

    It is pinned to ``cpus`` from its first instruction. Its stderr is kept, to tell the reason when it dies.
    """

    def __init__(self, name: str, argv: Sequence[str], cpus: Collection[int], timeout_seconds: float) -> None:
        self.name = name
        self._timeout_seconds = timeout_seconds
        self._received = b""
        self._finished = False
        self._closed = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker; a pipe would fill up and block it
        try:
            with _calling_thread_on(cpus):  # a child inherits the affinity of the thread that starts it
                self._process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    bufsize=0,
                    start_new_session=True,
                )
        except OSError as error:
            self._stderr.close()
            raise InfrastructureError(f"worker {name} cannot be started: {error}; check its command") from error
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pin(self, cpus: Collection[int]) -> None:
        """Let every thread of the process, and those that it starts from now on, run on ``cpus`` only.

        Raises:
            InfrastructureError: these CPUs may not be used any more.
        """
        for task in Path(f"/proc/{self._process.pid}/task").glob("*"):
            try:
                os.sched_setaffinity(int(task.name), cpus)
            except ProcessLookupError:  # that thread has ended
                continue
            except OSError as error:
                raise InfrastructureError(
                    f"worker {self.name} cannot be moved to CPUs {sorted(cpus)}: {error.strerror}; release again"
                ) from error

    def ready(self) -> None:
        """Wait until the process has started and imported all that it needs. Raises as `ask` does."""
        self._answer("start", protocol.Ready)

    def ask(self, request: protocol.Request, answer: type[Answer]) -> Answer:
        """Send ``request`` and wait for its ``answer``.

        Raises:
            SlipwayError: the worker failed; the class is that of its own error where that is one of Slipway's.
            InfrastructureError: it died, answered something else, or took longer than the timeout.
        """
        with contextlib.suppress(BrokenPipeError):  # it died: its missing answer tells why
            self._stdin.write(request.model_dump_json().encode() + b"\n")
        reply = self._answer(request.do, answer)
        self._finished = isinstance(request, protocol.Finish)
        return reply

    def close(self) -> None:
        """End the process and all that it started; one that has finished gets the time to end by itself."""
        if self._closed:
            return
        self._closed = True
        self._stdin.close()
        self._stdout.close()
        try:
            if self._finished:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_EXIT_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._stderr.close()

    def _answer(self, asked: str, answer: type[Answer]) -> Answer:
        line = self._line(asked)
        with contextlib.suppress(ValidationError):
            return answer.model_validate_json(line)
        try:
            failed = protocol.Failed.model_validate_json(line)
        except ValidationError:
            shown = line[:_SHOWN_CHARACTERS].decode(errors="replace").strip()
            raise InfrastructureError(
                f"worker {self.name} was asked to {asked} and answered {shown!r}; only the protocol may use its stdout"
            ) from None
        kind = getattr(errors, failed.kind, None)
        if isinstance(kind, type) and issubclass(kind, SlipwayError):
            raise kind(failed.error)
        raise InfrastructureError(f"worker {self.name} failed to {asked}: {failed.kind}: {failed.error}")

    def _line(self, asked: str) -> bytes:
        deadline = time.monotonic() + self._timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(deadline - time.monotonic()):
                    raise InfrastructureError(
                        f"worker {self.name} did not {asked} within {self._timeout_seconds:g} s: its engine hangs, or "
                        "the host is overloaded; leave it out, or release again when the host is quiet"
                    )
                chunk = os.read(self._stdout.fileno(), 1 << 16)
                if not chunk:
                    raise InfrastructureError(f"worker {self.name} died when asked to {asked}: {self._last_words()}")
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _last_words(self) -> str:
        try:
            status = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its stdout; only the protocol may use it"
        ending = f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"exit status {status}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"{ending}; {lines[-1]}" if lines else ending


@contextlib.contextmanager
def _calling_thread_on(cpus: Collection[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
