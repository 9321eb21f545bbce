"""The receiver's log: one JSON object per line, which tells who did what, and why."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

STRANGERS_EVERY_SECONDS = 1.0


class Log:
    """Writes to ``stream``; one that nobody reads costs lines and nothing else.

    Of what strangers cause, one line a second is written at most, with how many were left out: they cannot fill the
    disk.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock, self._next_s, self._left_out = threading.Lock(), 0.0, 0

    def tell(self, who: str, what: str, why: str, **details: object) -> None:
        """Write a line."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "who": who, "what": what, "why": why}
        told = json.dumps(line | {name: value for name, value in details.items() if value is not None}, default=str)
        with self._lock, suppress(OSError, ValueError):
            stream = self._stream or sys.stderr
            stream.write(f"{told}\n")
            stream.flush()

    def stranger(self, who: str, what: str, why: str) -> None:
        """Write a line on what anybody can send, unless there was one just now."""
        with self._lock:
            now_s = time.monotonic()
            if now_s < self._next_s:
                self._left_out += 1
                return
            self._next_s, left_out, self._left_out = now_s + STRANGERS_EVERY_SECONDS, self._left_out, 0
        self.tell(who, what, why, left_out=left_out or None)
