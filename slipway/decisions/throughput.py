"""Which of the measured settings of batch, threads and streams to serve with."""

from __future__ import annotations

from collections.abc import Sequence

from slipway.records import Throughput, Timing

_MS_PER_S = 1000


def best_throughput(settings: Sequence[Throughput], latency_p99_ms: float | None) -> Throughput | None:
    """The setting of the most examples per second whose calls can be answered within ``latency_p99_ms``.

    Among equals it is the one with the fewest threads in all. None if there is no such setting. By Little's law (1961,
    Operations Research 9, pages 383-387) callers that ask one call after the other wait ``streams`` x ``batch`` over
    the rate, on average: a mean above the demand rules a setting out, one below it promises no percentile.
    """
    fitting = [one for one in settings if latency_p99_ms is None or mean_latency_ms(one) <= latency_p99_ms]
    return max(fitting, key=lambda one: (one.examples_per_s, -one.streams * one.threads), default=None)


def settings_of(timing: Timing) -> tuple[Throughput, ...]:
    """Every setting that was measured.

    Older evidence tells only the best rate of each batch size. It is read as that of a single stream, whose calls
    take the least time that the rate allows: what does not fit a demand then, would not with more streams either.
    """
    threads = timing.latency.threads
    return timing.throughput or tuple(
        Throughput(batch=int(batch), threads=threads, streams=1, examples_per_s=rate)
        for batch, rate in timing.throughput_per_s.items()
    )


def setting_to_serve(timing: Timing) -> Throughput | None:
    """The setting that was recorded as the best within the target's demand; None where none was within it.

    Older evidence records no settings, and no demand with them: there it is the best of all.
    """
    if timing.best_throughput is not None or timing.throughput:
        return timing.best_throughput
    return best_throughput(settings_of(timing), None)


def setting_told(setting: Throughput) -> str:
    """Rate, batch size and, where there are several, streams, in one phrase."""
    streams = f" x {setting.streams} streams" if setting.streams > 1 else ""
    return f"{setting.examples_per_s:.4g}/s at batch {setting.batch}{streams}"


def mean_latency_ms(setting: Throughput) -> float:
    """How long a call takes on average, by Little's law; infinite where nothing was answered."""
    if setting.examples_per_s <= 0:
        return float("inf")
    return _MS_PER_S * setting.streams * setting.batch / setting.examples_per_s
