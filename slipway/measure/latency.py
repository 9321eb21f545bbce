"""Latency inside one process: warm up, time single calls, and tell only what the samples support."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from slipway.errors import BadInputError
from slipway.records import Interval, Latency

Nanoseconds = NDArray[np.int64]

# The least samples from which MLPerf LoadGen's early stopping tells a percentile at 99% confidence
# (mlcommons/inference, loadgen/early_stopping.cc).
SAMPLES_FOR_P90 = 64
SAMPLES_FOR_P99 = 662

_SETTLED_WINDOWS = 3
_SETTLED_SPREAD = 1.10
_WINDOW_CALLS = 3
_RESAMPLES = 9_999


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

    def percentile_ms(share: float) -> float:
        return float(np.percentile(samples_ns, share, method="higher")) / 1e6

    return Latency(
        p50_ms=percentile_ms(50),
        p90_ms=percentile_ms(90) if n >= SAMPLES_FOR_P90 else None,
        p99_ms=percentile_ms(99) if n >= SAMPLES_FOR_P99 else None,
        samples=n,
        batch=batch,
        threads=threads,
        settled=settled,
    )


def paired_speedup(
    reference_blocks: Sequence[Nanoseconds],
    candidate_blocks: Sequence[Nanoseconds],
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How many times faster the candidate is: the median over rounds of the ratio of the two block medians.

    The i-th blocks were run next to each other, so that the host's drift cancels in their ratio. The interval is a
    two-sided percentile bootstrap over rounds (Efron & Tibshirani 1993, chapter 13); the same for the same ``seed``.
    It speaks of the processes that ran: memory layout makes another start differ by a few percent, which no number of
    rounds can show (Mytkowicz et al. 2009, ASPLOS).

    Raises:
        BadInputError: the blocks do not pair up, or there are fewer than two pairs.
    """
    if len(reference_blocks) != len(candidate_blocks) or len(reference_blocks) < 2:
        raise BadInputError(
            "a paired speed-up needs two or more rounds of both, found "
            f"{len(reference_blocks)} of the reference and {len(candidate_blocks)} of the candidate; raise the budget"
        )
    pairs = zip(reference_blocks, candidate_blocks, strict=True)
    ratios = np.array([np.median(reference) / np.median(candidate) for reference, candidate in pairs])
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    medians = np.median(ratios[drawn], axis=1)
    lower, upper = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=float(np.median(ratios)), lower=float(lower), upper=float(upper))


def _window_median(run_once: Callable[[], object], seconds: float) -> float:
    end = time.perf_counter() + seconds
    samples: list[int] = []
    while len(samples) < _WINDOW_CALLS or time.perf_counter() < end:
        start = time.perf_counter_ns()
        run_once()
        samples.append(time.perf_counter_ns() - start)
    return float(np.median(samples))
