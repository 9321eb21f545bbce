"""Latency inside one process: warm up, time single calls, and tell only what the samples support."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slipway.config import P99_SAMPLES
from slipway.errors import BadInputError
from slipway.records import Interval, Latency

Nanoseconds = NDArray[np.int64]

# The least samples from which MLPerf LoadGen's early stopping tells a percentile at 99% confidence
# (mlcommons/inference, loadgen/early_stopping.cc).
SAMPLES_FOR_P90 = 64
SAMPLES_FOR_P95 = 130
SAMPLES_FOR_P99 = P99_SAMPLES

_SETTLED_WINDOWS = 3
_SETTLED_SPREAD = 1.10
_WINDOW_CALLS = 3


def warm_up(run_once: Callable[[], object], window_seconds: float = 0.05, max_seconds: float = 10.0) -> bool:
    """Call until three consecutive windows have medians within 10% of each other; False if ``max_seconds`` ran out.

    A window is at least ``window_seconds`` and three calls long; three windows are always run.
    """
    deadline = time.perf_counter() + max_seconds
    medians: deque[float] = deque(maxlen=_SETTLED_WINDOWS)
    while len(medians) < _SETTLED_WINDOWS or time.perf_counter() < deadline:
        medians.append(_window_median(run_once, window_seconds))
        if len(medians) == _SETTLED_WINDOWS and max(medians) <= _SETTLED_SPREAD * min(medians):
            return True
    return False


def time_calls(run_once: Callable[[], object], n: int) -> Nanoseconds:
    """Wall time of each of ``n`` calls in ns, shape (n,), with the garbage collector held off."""
    samples = [0] * n
    clock = time.perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        for call in range(n):
            start = clock()
            run_once()
            samples[call] = clock() - start
    finally:
        if collecting:
            gc.enable()
    return np.array(samples, dtype=np.int64)


def summarise(samples_ns: Nanoseconds, batch: int, threads: int, settled: bool) -> Latency:
    """Percentiles that are observed samples (never interpolated); None where there are too few samples for one.

    Raises:
        BadInputError: there are no samples.
    """
    n = len(samples_ns)
    if n == 0:
        raise BadInputError("latency needs at least one sample, found none; time some calls first")
    ordered_ns = np.sort(samples_ns)

    def percentile_ms(percent: int) -> float:
        return float(ordered_ns[_rank(percent, n) - 1]) / 1e6

    return Latency(
        p50_ms=percentile_ms(50),
        p90_ms=percentile_ms(90) if n >= SAMPLES_FOR_P90 else None,
        p95_ms=percentile_ms(95) if n >= SAMPLES_FOR_P95 else None,
        p99_ms=percentile_ms(99) if n >= SAMPLES_FOR_P99 else None,
        p99_interval_ms=_p99_interval_ms(ordered_ns) if n >= SAMPLES_FOR_P99 else None,
        samples=n,
        batch=batch,
        threads=threads,
        settled=settled,
    )


def _rank(percent: int, n: int) -> int:
    """Which of ``n`` ordered samples, counted from 1, is the percentile: the next one up where it falls between two."""
    return -(-percent * (n - 1) // 100) + 1


def _p99_interval_ms(ordered_ns: Nanoseconds, confidence: float = 0.95) -> Interval:
    """The two order statistics between which the 99th percentile lies, whatever the distribution.

    The number of samples below a percentile is binomial (David & Nagaraja 2003, Order Statistics, section 7.1), which
    takes the samples for independent: a slow spell of the host lasts for several calls, and then the interval is too
    narrow. It needs 368 samples, fewer than the percentile itself.
    """
    from scipy.stats import binom

    n, tail = len(ordered_ns), (1 - confidence) / 2
    ranks = (_rank(99, n), int(binom.ppf(tail, n, 0.99)), int(binom.ppf(1 - tail, n, 0.99)) + 1)
    value, lower, upper = (float(ordered_ns[rank - 1]) / 1e6 for rank in ranks)
    return Interval(value=value, lower=lower, upper=upper)


def _window_median(run_once: Callable[[], object], seconds: float) -> float:
    end = time.perf_counter() + seconds
    samples: list[int] = []
    while len(samples) < _WINDOW_CALLS or time.perf_counter() < end:
        start = time.perf_counter_ns()
        run_once()
        samples.append(time.perf_counter_ns() - start)
    return float(np.median(samples))
