"""A timed engine some of whose calls sleep: ``-m tests.faults.hiccup_engine EVERY SECONDS ENGINE FILE DATA``."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

from slipway.engines.session import CheckedSession
from slipway.steps import timed_engine


def main(every: int, seconds: float, name: str, path: Path, data: Path) -> int:
    """`slipway.steps.timed_engine`, with a sleep in one of ``every`` calls."""
    calls, infer = itertools.count(1), CheckedSession.infer

    def sometimes_slow(session: CheckedSession, arrays: Any) -> Any:
        if next(calls) % every == 0:
            time.sleep(seconds)
        return infer(session, arrays)

    CheckedSession.infer = sometimes_slow  # type: ignore[method-assign]  # the fault that is planted
    return timed_engine.main(name, path, data)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5])))
