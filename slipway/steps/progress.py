"""Progress as structured log records on the logger ``slipway.progress``; whoever listens draws them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

LOGGER = logging.getLogger("slipway.progress")
INTERVAL_SECONDS = 0.2


class Event(NamedTuple):
    """What happened to ``line`` (a candidate, or something that all share) in ``step``.

    ``status`` is running, done, cached or a verdict; ``share``, in [0, 1], is what is done of a running step, if known.
    """

    line: str
    step: str
    status: str
    detail: str = ""
    share: float | None = None


def tell(event: Event) -> None:
    """Log one event."""
    detail = f" ({event.detail})" if event.detail else ""
    LOGGER.info("%s: %s %s%s", event.line, event.step, event.status, detail, extra={"event": event})


def meter(line: str, step: str) -> Callable[[float], None]:
    """What a step calls with the share that is done, as often as it likes; some of it is told."""
    last = 0.0

    def told(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= INTERVAL_SECONDS:
            last = now
            tell(Event(line, step, "running", share=share))

    return told
