from __future__ import annotations

import gc
import itertools
import time

import numpy as np
import pytest

from slipway.errors import BadInputError
from slipway.measure.latency import summarise, time_calls, warm_up
from slipway.records import Interval


def test_each_call_is_timed_with_the_collector_off_and_put_back() -> None:
    collecting = []

    def run_once() -> None:
        collecting.append(gc.isenabled())
        time.sleep(0.002)

    samples = time_calls(run_once, 5)
    assert samples.dtype == np.int64
    assert samples.shape == (5,)
    assert samples.min() >= 2_000_000
    assert collecting == [False] * 5
    assert gc.isenabled()


def test_the_collector_is_put_back_after_an_error_and_left_off_if_it_was() -> None:
    with pytest.raises(ZeroDivisionError):
        time_calls(lambda: 1 // 0, 1)
    assert gc.isenabled()
    gc.disable()
    try:
        time_calls(lambda: None, 1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_timing_adds_next_to_nothing() -> None:
    assert np.median(time_calls(lambda: None, 1000)) < 5_000


def test_a_steady_call_settles() -> None:
    assert warm_up(lambda: time.sleep(0.001), window_seconds=0.02, max_seconds=5)


def test_a_call_that_keeps_growing_never_settles() -> None:
    growing = itertools.count(1)
    start = time.perf_counter()
    assert not warm_up(lambda: time.sleep(0.0005 * 1.2 ** next(growing)), window_seconds=0, max_seconds=0.2)
    assert time.perf_counter() - start < 2


def test_warm_up_goes_on_past_slow_first_calls() -> None:
    calls = itertools.count()
    settled = warm_up(lambda: time.sleep(0.02 if next(calls) < 6 else 0.001), window_seconds=0.005, max_seconds=5)
    assert settled
    assert next(calls) > 6 + 3 * 3


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (63, (False, False, False)),
        (64, (True, False, False)),
        (129, (True, False, False)),
        (130, (True, True, False)),
        (661, (True, True, False)),
        (662, (True, True, True)),
    ],
)
def test_a_percentile_is_told_only_from_enough_samples(n: int, told: tuple[bool, bool, bool]) -> None:
    latency = summarise(np.full(n, 1_000_000), batch=1, threads=2, settled=True)
    assert (latency.p50_ms, latency.samples, latency.batch, latency.threads) == (1.0, n, 1, 2)
    assert tuple(value is not None for value in (latency.p90_ms, latency.p95_ms, latency.p99_ms)) == told
    assert (latency.p99_interval_ms is not None) == told[2]


def test_percentiles_are_observed_samples() -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1, 1001)) * 1_000_000
    latency = summarise(samples, batch=1, threads=1, settled=False)
    assert (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms) == (501.0, 901.0, 951.0, 991.0)
    assert not latency.settled


def test_no_samples_have_no_latency() -> None:
    with pytest.raises(BadInputError, match="at least one sample"):
        summarise(np.array([], dtype=np.int64), batch=1, threads=1, settled=True)


def test_the_interval_of_p99_covers_it_as_often_as_it_says() -> None:
    """Over 400 sessions of the least samples, from a law with a long tail: about 95%, here within three deviations."""
    rng = np.random.default_rng(0)
    truth_ms = np.exp(2 * 2.3263478740408408) / 1e6
    covered = 0
    for _ in range(400):
        interval = summarise(np.exp(2 * rng.standard_normal(662)), batch=1, threads=1, settled=True).p99_interval_ms
        assert interval is not None
        covered += interval.lower <= truth_ms <= interval.upper
    assert 368 <= covered <= 396


def test_the_interval_of_p99_is_made_of_observed_samples_around_it() -> None:
    latency = summarise(np.arange(1, 1001) * 1_000_000, batch=1, threads=1, settled=True)
    assert latency.p99_interval_ms == Interval(value=latency.p99_ms or 0, lower=983.0, upper=997.0)
