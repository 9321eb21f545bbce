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

from slipway.errors import InfrastructureError, UnsupportedError
from slipway.measure import protocol
from slipway.measure.arrays import Arrays, Infer, write_arrays
from slipway.measure.latency import time_calls, warm_up
from slipway.measure.loadgen import run_scenario
from slipway.measure.throughput import examples_per_s
from slipway.records import Profile, Record

Load: TypeAlias = Callable[[int, int], AbstractContextManager[Infer]]
Inputs: TypeAlias = Callable[[int], Arrays]
ProfileCalls: TypeAlias = Callable[[int, Arrays, int, Path], Profile]

# Before a block: idle thread pools of the worker that ran last still spin for a few milliseconds, and its data
# fills the caches. The untimed calls are always as many: calls for some length of time would mostly end with a slow
# one, and so keep the slow ones out of the block.
_PAUSE_SECONDS = 0.005
_LEAD_IN_CALLS = 2


def serve(load: Load, inputs: Inputs, profile: ProfileCalls, stdin: TextIO, stdout: TextIO) -> int:
    """Answer requests from ``stdin`` on ``stdout`` until told to finish or ``stdin`` ends; the process's exit status.

    ``load(threads, streams)`` opens the engine for so many callers at once, ``inputs(batch)`` gives that many examples,
    and ``profile(threads, arrays, calls, trace)`` runs it under its runtime's profiler, which writes ``trace``.
    Whatever they import should be imported before, so that it does not count as loading. An exception is told on
    ``stdout``, with its trace on stderr, and ends the loop with status 1.
    """
    with _Worker(load, inputs, profile) as worker:
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

    def __init__(self, load: Load, inputs: Inputs, profile: ProfileCalls) -> None:
        self._load = load
        self._inputs = inputs
        self._profile = profile
        self._opened = ExitStack()
        self._run_once: Callable[[], Arrays] = _nothing_loaded
        self._alone_rss_bytes: int | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def answer(self, request: protocol.Request) -> Record:
        answer: Record
        match request:
            case protocol.Load():
                answer = self._open(request.threads, request.batch)
            case protocol.WarmUp():
                settled = warm_up(self._run_once, request.window_seconds, request.max_seconds)
                answer = protocol.Settled(settled=settled)
            case protocol.Block():
                _lead_in(self._run_once)
                answer = protocol.Samples(ns=tuple(time_calls(self._run_once, request.calls).tolist()))
            case protocol.Check():
                answer = protocol.Outputs(npz=_encoded(self._run_once()))
            case protocol.Close():
                self._close()
                answer = protocol.Closed()
            case protocol.Throughput():
                answer = self._throughput(request)
            case protocol.Scenario():
                answer = self._scenario(request)
            case protocol.Profile():
                answer = self._profiled(request)
            case protocol.Finish():
                self._close()
                answer = protocol.Finished(peak_rss_bytes=self._alone_rss_bytes or _peak_rss_bytes())
        return answer

    def _open(self, threads: int, batch: int) -> protocol.Loaded:
        self._close()  # before the next one opens: two engines at once would count as memory
        arrays = self._inputs(batch)
        start = time.perf_counter()
        infer = self._opened.enter_context(self._load(threads, 1))
        opened = time.perf_counter()
        infer(arrays)
        answered = time.perf_counter()
        self._run_once = partial(infer, arrays)
        return protocol.Loaded(load_seconds=opened - start, first_inference_seconds=answered - opened)

    def _close(self) -> None:
        self._run_once = _nothing_loaded  # a reference left here would keep the engine's memory
        self._opened.close()

    def _throughput(self, request: protocol.Throughput) -> protocol.Rates:
        self._close()
        if request.streams > 1:
            self._note_peak_rss()
        arrays = self._inputs(request.batch)
        with self._load(request.threads, request.streams) as infer:
            callers = [partial(infer, arrays)] * request.streams
            rates = examples_per_s(callers, request.batch, request.seconds, request.windows)
            return protocol.Rates(examples_per_s=tuple(rates))

    def _scenario(self, request: protocol.Scenario) -> protocol.Concluded:
        self._close()
        self._note_peak_rss()
        arrays = self._inputs(request.batch)
        with self._load(request.threads, 1) as infer:
            return protocol.Concluded(scenario=run_scenario(request, partial(infer, arrays)))

    def _profiled(self, request: protocol.Profile) -> protocol.Profiled:
        self._close()
        self._note_peak_rss()
        arrays = self._inputs(request.batch)
        try:
            profile = self._profile(request.threads, arrays, request.calls, Path(request.trace))
        except UnsupportedError as error:
            return protocol.Profiled(profile=None, reason=_first_line(error))
        except Exception as error:  # noqa: BLE001 - a profiler that stumbles takes nothing from what was timed before
            traceback.print_exc()
            return protocol.Profiled(profile=None, reason=f"{type(error).__name__}: {_first_line(error)}")
        return protocol.Profiled(profile=profile)

    def _note_peak_rss(self) -> None:
        """Keep the peak of one caller alone, before there are several or a tool adds its own."""
        if self._alone_rss_bytes is None:
            self._alone_rss_bytes = _peak_rss_bytes()


def _nothing_loaded() -> Arrays:
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
