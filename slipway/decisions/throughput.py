"""Which of the measured settings of batch, threads and streams to serve with."""

from __future__ import annotations

from collections.abc import Sequence

from slipway.records import Throughput

_MS_PER_S = 1000


def best_throughput(settings: Sequence[Throughput], latency_p99_ms: float | None) -> Throughput | None:
    """The setting of the most examples per second whose calls can be answered within ``latency_p99_ms``.

    Among equals it is the one with the fewest threads in all. None if there is no such setting. By Little's law (1961,
    Operations Research 9, pages 383-387) callers that ask one call after the other wait ``streams`` x ``batch`` over
    the rate, on average: a mean above the demand rules a setting out, one below it promises no percentile.
    """
    fitting = [one for one in settings if latency_p99_ms is None or _mean_latency_ms(one) <= latency_p99_ms]
    return max(fitting, key=lambda one: (one.examples_per_s, -one.streams * one.threads), default=None)


def _mean_latency_ms(setting: Throughput) -> float:
    if setting.examples_per_s <= 0:
        return float("inf")
    return _MS_PER_S * setting.streams * setting.batch / setting.examples_per_s
