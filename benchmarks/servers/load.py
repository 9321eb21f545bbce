"""Clients that cost little: a closed loop of some callers, and MLPerf LoadGen's open one."""

from __future__ import annotations

import json
import queue
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SKIPPED = 3  # requests at the beginning of a window, for caches that others have filled
TIMEOUT_S = 120.0
RECEIVED = 1 << 18
CALLERS = 32


@dataclass(frozen=True)
class Request:
    """What is sent, over and over, to a port of this host."""

    port: int
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def bytes(self) -> bytes:
        """Head and body as they go over the wire."""
        head = {"Host": "127.0.0.1", "Content-Length": str(len(self.body)), **self.headers}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


class Caller:
    """One connection that is kept open; a context manager. ``http.client`` would take a third of the time measured."""

    def __init__(self, request: Request) -> None:
        self._request = request.bytes
        self._port = request.port
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._socket is not None:
            self._socket.close()

    def ask(self) -> tuple[dict[str, str], bytes]:
        """Headers and body of one answer.

        Raises:
            OSError: there was none, or it was no success.
        """
        if self._socket is not None:
            try:
                return self._asked(self._socket)
            except ConnectionError:  # servers close a connection on which nothing was asked for some seconds
                self._socket.close()
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._asked(self._socket)

    def _asked(self, connected: socket.socket) -> tuple[dict[str, str], bytes]:
        connected.sendall(self._request)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._more()
        status, *lines = received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = received[end + 4 :]
        if headers.get("transfer-encoding") == "chunked":
            body = self._joined(body)
        while len(body) < int(headers.get("content-length", 0)):
            body += self._more()
        if status.split(" ")[1] != "200":
            raise OSError(f"{status}: {body[:300]!r}")
        if headers.get("connection", "").lower() == "close":
            connected.close()
            self._socket = None
        return headers, body

    def _joined(self, received: bytes) -> bytes:
        """The body that comes in chunks, each behind its size in hexadecimal; one of size 0 ends it."""
        body = b""
        while True:
            while (end := received.find(b"\r\n")) < 0:
                received += self._more()
            size = int(received[:end], 16)
            start, behind = end + 2, end + 2 + size + 2
            while len(received) < behind:
                received += self._more()
            if size == 0:
                return body
            body, received = body + received[start : start + size], received[behind:]

    def _more(self) -> bytes:
        assert self._socket is not None
        if not (chunk := self._socket.recv(RECEIVED)):
            raise ConnectionError("the server hung up")
        return chunk


@dataclass(frozen=True)
class Window:
    """The times of all requests in seconds, and how many were answered per second."""

    times_s: list[float]
    per_s: float


def closed_loop(request: Request, callers: int, seconds: float) -> Window:
    """``callers`` that each ask again as soon as they are answered, for so long.

    Raises:
        OSError: a request was not answered.
    """
    ready = threading.Barrier(callers)

    def warm(caller: Caller) -> None:
        try:
            for _ in range(SKIPPED if callers == 1 else 1):
                caller.ask()
        except OSError:
            ready.abort()
            raise
        ready.wait(TIMEOUT_S)

    def call(_: int) -> tuple[float, list[float], float]:
        with Caller(request) as caller:
            warm(caller)
            first, times = time.perf_counter(), []
            while not times or time.perf_counter() < first + seconds:
                start = time.perf_counter()
                caller.ask()
                times.append(time.perf_counter() - start)
            return first, times, time.perf_counter()

    with ThreadPoolExecutor(callers) as pool:
        try:
            done = list(pool.map(call, range(callers)))
        except threading.BrokenBarrierError as error:
            raise OSError(f"not all of {callers} callers were answered") from error
    times = [one for _, found, _ in done for one in found]
    return Window(times, len(times) / (max(last for *_, last in done) - min(first for first, *_ in done)))


@dataclass(frozen=True)
class Served:
    """What LoadGen concluded of a server: its own verdict, and the 99th percentile."""

    valid: bool
    target_per_s: float
    per_s: float
    p99_ms: float
    queries: int


def server_scenario(request: Request, per_s: float, bound_ms: float, seconds: float) -> Served:
    """MLPerf LoadGen's Server scenario: requests arrive at random (Poisson), whether or not the last one is answered.

    It is valid if 99 of 100 are answered within ``bound_ms``, with the confidence that its early stopping demands.
    """
    import mlperf_loadgen

    free: queue.SimpleQueue[Caller] = queue.SimpleQueue()
    errors: list[OSError] = []

    def answer(sample: int) -> None:
        caller = free.get()
        try:
            caller.ask()
        except OSError as error:
            errors.append(error)
        free.put(caller)
        mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(sample, 0, 0)])

    settings = mlperf_loadgen.TestSettings()
    settings.scenario = mlperf_loadgen.TestScenario.Server
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(seconds * 1e3)
    settings.server_target_qps = per_s
    settings.server_target_latency_percentile = 0.99
    settings.server_target_latency_ns = round(bound_ms * 1e6)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(CALLERS))
        for _ in range(CALLERS):
            free.put(opened.enter_context(Caller(request)))
        logs = mlperf_loadgen.LogSettings()
        logs.log_output.outdir = folder
        logs.enable_trace = False

        def issue(samples: list[Any]) -> None:
            for sample in samples:
                pool.submit(answer, sample.id)

        system = mlperf_loadgen.ConstructSUT(issue, lambda: None)
        library = mlperf_loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
        try:
            mlperf_loadgen.StartTestWithLogSettings(system, library, settings, logs, "")
        finally:
            mlperf_loadgen.DestroyQSL(library)
            mlperf_loadgen.DestroySUT(system)
        told = _told(Path(folder) / "mlperf_log_detail.txt")
    if errors:
        raise errors[0]
    return Served(
        valid=told["result_validity"] == "VALID",
        target_per_s=per_s,
        per_s=told["result_completed_samples_per_sec"],
        p99_ms=told["result_99.00_percentile_latency_ns"] / 1e6,
        queries=told["result_query_count"],
    )


def _told(log: Path) -> dict[str, Any]:
    entries = (
        json.loads(line.removeprefix(":::MLLOG "))
        for line in log.read_text(encoding="utf-8").splitlines()
        if line.startswith(":::MLLOG ")
    )
    return {entry["key"]: entry["value"] for entry in entries}
