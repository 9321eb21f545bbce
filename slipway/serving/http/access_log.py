"""The access log: one JSON object per answered request, for a person, a shipper of logs, and the canary."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from typing import Protocol

import orjson

from slipway.serving.answering.served import ServedModel
from slipway.serving.http.inference_json import Array

WAITING_LINES = 10_000
CLOSE_SECONDS = 5.0
UNREAD_SECONDS = 0.05
MAX_ID = 256  # characters


class Sink(Protocol):
    """A file opened for bytes, best without a buffer: one that nobody reads would lock it at the program's end."""

    def write(self, data: bytes, /) -> int | None:
        """Write, and tell how many bytes of it were."""


class AccessLog:
    """Writes lines to ``sink`` in a thread of its own; to nothing where it is None.

    A disk that is full and a pipe that nobody reads cost lines, never an answer: ``dropped`` counts them.
    """

    def __init__(self, sink: Sink | None, waiting: int = WAITING_LINES) -> None:
        self._sink = sink
        self._lines: Queue[bytes | None] = Queue(waiting)
        self._full = self._failed = 0
        self._writer: Thread | None = None
        if sink is not None:
            # Nobody waits for a daemon that hangs in a pipe.
            self._writer = Thread(target=self._write, args=(sink,), name="access-log", daemon=True)
            self._writer.start()

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._full + self._failed

    def answered(self, model: ServedModel, request_id: str | None, took_ns: int, outputs: Mapping[str, Array]) -> None:
        """Log an answer: who asked for it, which engine gave it, how long it took in us, and its top-1 classes."""
        if self._sink is None:
            return
        line = {
            "time": time.time(),
            "request_id": request_id and request_id[:MAX_ID],
            "model": model.name,
            "version": model.version,
            "digest": model.digest,
            "latency_us": took_ns // 1000,
            "top1": _top1(outputs),
        }
        try:
            self._lines.put_nowait(orjson.dumps(line) + b"\n")
        except Full:
            self._full += 1

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, within so many seconds."""
        if self._writer is None:
            return
        deadline = time.monotonic() + seconds
        with suppress(Full):
            self._lines.put(None, timeout=seconds)
        self._writer.join(max(deadline - time.monotonic(), 0))

    def _write(self, sink: Sink) -> None:
        while (line := self._lines.get()) is not None:
            try:
                while line:
                    written = sink.write(line)
                    if not written:
                        time.sleep(UNREAD_SECONDS)  # a pipe that does not block, and is full
                    line = line[written or 0 :]
            except (OSError, ValueError) as error:  # a closed file is a ValueError
                if not self._failed:
                    _warn(error)
                self._failed += 1


def _warn(error: Exception) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(f"the access log cannot be written: {error}; answers go on, its lines are dropped\n")


def _top1(outputs: Mapping[str, Array]) -> list[int] | None:
    """The most likely class of each example, where the first output is scores of classes."""
    first = next(iter(outputs.values()), None)
    if first is None or first.ndim != 2 or first.dtype.kind != "f" or not first.shape[1]:
        return None
    classes: list[int] = first.argmax(1).tolist()
    return classes
