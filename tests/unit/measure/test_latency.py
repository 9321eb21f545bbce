from __future__ import annotations

import gc
import itertools
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from slipway.errors import BadInputError
from slipway.measure.latency import paired_speedup, summarise, time_calls, warm_up


def blocks(rng: np.random.Generator, rounds: int, mean_ns: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    return [rng.gamma(100, mean_ns[turn] / 100, size=50).astype(np.int64) for turn in range(rounds)]


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
    ("n", "p90", "p99"), [(63, False, False), (64, True, False), (661, True, False), (662, True, True)]
)
def test_a_percentile_is_told_only_from_enough_samples(n: int, p90: bool, p99: bool) -> None:
    latency = summarise(np.full(n, 1_000_000), batch=1, threads=2, settled=True)
    assert (latency.p50_ms, latency.samples, latency.batch, latency.threads) == (1.0, n, 1, 2)
    assert ((latency.p90_ms is not None), (latency.p99_ms is not None)) == (p90, p99)


def test_percentiles_are_observed_samples() -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1, 1001)) * 1_000_000
    latency = summarise(samples, batch=1, threads=1, settled=False)
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == (501.0, 901.0, 991.0)
    assert not latency.settled


def test_no_samples_have_no_latency() -> None:
    with pytest.raises(BadInputError, match="at least one sample"):
        summarise(np.array([], dtype=np.int64), batch=1, threads=1, settled=True)


def test_drift_of_the_host_cancels_in_a_paired_speedup() -> None:
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 15) * 1e6
    speedup = paired_speedup(blocks(rng, 15, 2 * drift), blocks(rng, 15, drift))
    assert speedup.lower < speedup.value < speedup.upper
    assert speedup.value == pytest.approx(2, rel=0.03)
    assert speedup.upper - speedup.lower < 0.2


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Coverage over 100 simulated sessions; a percentile interval of a median over 15 rounds is close to nominal."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        noise = rng.gamma(400, 1 / 400, size=(2, 15)) * 1e6
        speedup = paired_speedup(blocks(rng, 15, noise[0]), blocks(rng, 15, noise[1]))
        covered += speedup.lower <= 1 <= speedup.upper
    assert covered >= 90


def test_the_interval_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    reference, candidate = blocks(rng, 15, np.full(15, 2e6)), blocks(rng, 15, np.full(15, 1e6))
    assert paired_speedup(reference, candidate) == paired_speedup(reference, candidate)


@pytest.mark.parametrize(("rounds", "of_candidate"), [(1, 1), (3, 2), (0, 0)])
def test_blocks_must_pair_up(rounds: int, of_candidate: int) -> None:
    block = np.array([1, 2, 3])
    with pytest.raises(BadInputError, match="two or more rounds"):
        paired_speedup([block] * rounds, [block] * of_candidate)
