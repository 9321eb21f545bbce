"""Throughput inside one process: examples per second of callers that run at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

_LEAD_IN_CALLS = 3  # a runtime sets up threads for each caller, and memory for each size of batch


def examples_per_s(
    callers: Sequence[Callable[[], object]], batch: int, seconds: float, windows: int = 1
) -> list[float]:
    """The sum of what ``callers`` answer, each in a thread of its own, ``batch`` examples per call, in each window.

    Each of the ``windows`` lasts for ``seconds``. All start it together, the first one after some calls that do not
    count; the first error of any is raised.
    """
    together = threading.Barrier(len(callers))

    def calls_per_s(run_once: Callable[[], object]) -> list[float]:
        try:
            for _ in range(_LEAD_IN_CALLS):
                run_once()
            return [window(run_once) for _ in range(windows)]
        except BaseException:
            together.abort()  # the others would wait for it
            raise

    def window(run_once: Callable[[], object]) -> float:
        together.wait()
        start = now = time.perf_counter()
        calls = 0
        while now - start < seconds:
            run_once()
            calls += 1
            now = time.perf_counter()
        return calls / (now - start)

    with ThreadPoolExecutor(len(callers)) as pool:
        running = [pool.submit(calls_per_s, run_once) for run_once in callers]
    for error in (one.exception() for one in running):
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [batch * sum(rates) for rates in zip(*(one.result() for one in running), strict=True)]
