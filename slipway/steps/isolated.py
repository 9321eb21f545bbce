"""Run a step in a process of its own: a crash or a time-out in a native runtime ends that step and nothing else."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import ParamSpec, TypeVar

from slipway.errors import InfrastructureError, SlipwayError
from slipway.steps.progress import LOGGER, Event, tell

EXIT_SECONDS = 10
P = ParamSpec("P")
T = TypeVar("T")


def isolated(step: Callable[P, T], timeout_seconds: float = 1800) -> Callable[P, T]:
    """``step``, run in a fresh child process; arguments and result are pickled.

    The children are forked from a server that has imported torch once, which saves seconds per step.

    Raises:
        SlipwayError: whatever the step raised.
        InfrastructureError: the child crashed, ran past ``timeout_seconds``, or raised anything unforeseen.
    """

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_imported_once())
        receiver, sender = context.Pipe(duplex=False)
        with tempfile.NamedTemporaryFile(prefix="slipway-step-") as output:
            child = context.Process(target=_report, args=(sender, output.name, step, args, kwargs), daemon=True)
            child.start()
            sender.close()
            try:
                outcome = _receive(receiver, child, step.__name__, timeout_seconds, Path(output.name))
                child.join(EXIT_SECONDS)
            finally:
                _end_group(child)
                receiver.close()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[return-value]  # it crossed a pickle

    return run


def _imported_once() -> list[str]:
    """Modules that the server of the children imports.

    Each child runs this process's main module again. That of a flow run is one of Prefect's, whose imports took each
    step on a worker more than a second of CPU time.
    """
    name = getattr(sys.modules["__main__"].__spec__, "name", "__main__")
    return ["slipway.steps.preloaded", *([] if name.endswith("__main__") else [name])]


def _receive(receiver: Connection, child: BaseProcess, name: str, timeout_seconds: float, output: Path) -> object:
    deadline = time.monotonic() + timeout_seconds
    try:
        while receiver.poll(max(deadline - time.monotonic(), 0)):
            message = receiver.recv()
            if not isinstance(message, Event):
                return message
            tell(message)
        raise InfrastructureError(f"{name} did not finish within {timeout_seconds:.0f} s and was ended")
    except EOFError:
        child.join()
        said = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last_words = f"; it last said: {said[-1]}" if said else ""
        raise InfrastructureError(
            f"{name} crashed: its process ended with {_describe(child.exitcode)}{last_words}"
        ) from None


def _end_group(child: BaseProcess) -> None:
    """End the child and whatever it started: a compiler that went on would disturb what is timed next."""
    with suppress(ProcessLookupError, PermissionError):  # it is gone, or has no group of its own yet
        assert child.pid, "it was started"
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()


def _report(
    sender: Connection,
    output: str,
    step: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> None:
    os.setpgid(0, 0)
    # Runtimes write to the terminal from C++; what they say is kept for the case that they crash.
    log = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    threading.Thread(target=_end_with_parent, args=(sender.fileno(),), daemon=True).start()
    LOGGER.addHandler(_Relay(sender))
    LOGGER.setLevel(logging.INFO)
    try:
        outcome = step(*args, **kwargs)
    except SlipwayError as error:
        outcome = error
    except Exception as error:  # noqa: BLE001 - the parent tells it; a foreign exception may not unpickle there
        first_line = (str(error).strip().splitlines() or ["no message"])[0]
        outcome = InfrastructureError(f"{step.__name__} failed: {type(error).__name__}: {first_line}")
    sender.send(outcome)
    sender.close()


class _Relay(logging.Handler):
    """Sends progress to the parent, which tells it as its own."""

    def __init__(self, sender: Connection) -> None:
        super().__init__()
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        self._sender.send(record.__dict__["event"])


def _end_with_parent(sender: int) -> None:
    """End this process and its children when nobody can read its result any more: the parent was killed."""
    hung_up = select.poll()
    hung_up.register(sender, 0)
    hung_up.poll()
    os.killpg(0, signal.SIGKILL)


def _describe(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit status {exit_code}"
