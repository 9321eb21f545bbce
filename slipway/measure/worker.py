"""The loop of a timed worker process: it holds one engine, and runs only while it is asked to."""

from __future__ import annotations

import base64
import io
import os
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TextIO, TypeAlias

from slipway.errors import InfrastructureError
from slipway.measure import protocol
from slipway.measure.arrays import Arrays, Infer, write_arrays
from slipway.measure.latency import time_calls, warm_up
from slipway.records import Record

Load: TypeAlias = Callable[[int], AbstractContextManager[Infer]]
Inputs: TypeAlias = Callable[[int], Arrays]

# Before a block: idle thread pools of the worker that ran last still spin for a few milliseconds, and its data
# fills the caches. The untimed calls are always as many: calls for some length of time would mostly end with a slow
# one, and so keep the slow ones out of the block.
_PAUSE_SECONDS = 0.005
_LEAD_IN_CALLS = 2


def serve(load: Load, inputs: Inputs, stdin: TextIO, stdout: TextIO) -> int:
    """Answer requests from ``stdin`` on ``stdout`` until told to finish or ``stdin`` ends; the process's exit status.

    ``load(threads)`` opens the engine and ``inputs(batch)`` gives that many examples. Whatever they import should be
    imported before, so that it does not count as loading. An exception is told on ``stdout``, with its trace on
    stderr, and ends the loop with status 1.
    """
    with _Worker(load, inputs) as worker:
        _say(stdout, protocol.Ready())
        for line in stdin:
            try:
                answer = worker.answer(protocol.REQUESTS.validate_json(line))
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises is told to the session
                traceback.print_exc()
                _say(stdout, protocol.Failed(kind=type(error).__name__, error=_first_line(error)))
                return 1
            _say(stdout, answer)
            if isinstance(answer, protocol.Finished):
                break
    return 0


def claim_stdout() -> TextIO:
    """The process's stdout, for the protocol alone: from now on whatever else prints there goes to stderr."""
    claimed = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(claimed, "w", encoding="utf-8")


class _Worker:
    """The engine that is open, and the call that is timed."""

    def __init__(self, load: Load, inputs: Inputs) -> None:
        self._load = load
        self._inputs = inputs
        self._opened = ExitStack()
        self._infer: Infer = _nothing_loaded
        self._run_once: Callable[[], Arrays] = partial(_nothing_loaded, {})

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def answer(self, request: protocol.Request) -> Record:
        match request:
            case protocol.Load():
                return self._open(request.threads, request.batch)
            case protocol.WarmUp():
                return protocol.Settled(settled=warm_up(self._run_once, max_seconds=request.max_seconds))
            case protocol.Block():
                _lead_in(self._run_once)
                return protocol.Samples(ns=tuple(time_calls(self._run_once, request.calls).tolist()))
            case protocol.Throughput():
                return protocol.Rate(examples_per_s=self._examples_per_s(request.batch, request.seconds))
            case protocol.Check():
                return protocol.Outputs(npz=_encoded(self._run_once()))
            case protocol.Finish():
                self._close()
                return protocol.Finished(peak_rss_bytes=_peak_rss_bytes())

    def _open(self, threads: int, batch: int) -> protocol.Loaded:
        self._close()  # before the next one opens: two engines at once would count as memory
        arrays = self._inputs(batch)
        start = time.perf_counter()
        self._infer = self._opened.enter_context(self._load(threads))
        seconds = time.perf_counter() - start
        self._run_once = partial(self._infer, arrays)
        return protocol.Loaded(load_seconds=seconds)

    def _close(self) -> None:
        self._infer = _nothing_loaded  # a reference left here would keep the engine's memory
        self._run_once = partial(_nothing_loaded, {})
        self._opened.close()

    def _examples_per_s(self, batch: int, seconds: float) -> float:
        run_once = partial(self._infer, self._inputs(batch))
        _lead_in(run_once)
        start = now = time.perf_counter()
        calls = 0
        while now - start < seconds:
            run_once()
            calls += 1
            now = time.perf_counter()
        return calls * batch / (now - start)


def _nothing_loaded(_: Arrays) -> Arrays:
    raise InfrastructureError("nothing is loaded; ask the worker to load first")


def _lead_in(run_once: Callable[[], object]) -> None:
    time.sleep(_PAUSE_SECONDS)
    for _ in range(_LEAD_IN_CALLS):
        run_once()


def _encoded(outputs: Arrays) -> str:
    buffer = io.BytesIO()
    write_arrays(buffer, outputs)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _peak_rss_bytes() -> int:
    # Not getrusage: its ru_maxrss starts from the parent's memory, which vfork shares until exec.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _say(stdout: TextIO, message: Record) -> None:
    stdout.write(message.model_dump_json() + "\n")
    stdout.flush()
