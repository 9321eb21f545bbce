from __future__ import annotations

import pytest

from slipway.decisions.throughput import best_throughput, setting_to_serve, settings_of
from slipway.records import Throughput
from tests.unit.decisions.builders import timing


def rate(examples_per_s: float, batch: int = 1, threads: int = 1, streams: int = 1) -> Throughput:
    return Throughput(batch=batch, threads=threads, streams=streams, examples_per_s=examples_per_s)


SINGLE, BATCHED, PARALLEL = rate(100), rate(400, batch=32), rate(300, batch=4, streams=2)


def test_the_highest_rate_wins_where_nothing_is_demanded() -> None:
    assert best_throughput([SINGLE, BATCHED, PARALLEL], None) is BATCHED


@pytest.mark.parametrize(
    ("demand_ms", "best"), [(80.0, BATCHED), (79.9, PARALLEL), (26.7, PARALLEL), (26.6, SINGLE), (9.9, None)]
)
def test_a_setting_whose_calls_take_longer_than_demanded_is_left_out(demand_ms: float, best: Throughput | None) -> None:
    """They take 10, 80 and 26.67 ms on average."""
    assert best_throughput([SINGLE, BATCHED, PARALLEL], demand_ms) == best


def test_of_equal_rates_the_fewest_threads_win() -> None:
    frugal = rate(100, threads=2)
    assert best_throughput([rate(100, threads=2, streams=2), frugal, rate(100, threads=4)], None) is frugal


def test_nothing_measured_gives_no_setting() -> None:
    assert best_throughput([], None) is None
    assert best_throughput([rate(0.0)], 1000) is None


def test_older_evidence_tells_the_rate_of_each_batch_size_and_is_read_as_one_stream() -> None:
    older = timing(throughput_per_s={"1": 200.0, "8": 320.0})
    assert settings_of(older) == (rate(200), rate(320, batch=8))
    assert setting_to_serve(older) == rate(320, batch=8)
    assert setting_to_serve(timing(throughput_per_s={})) is None


def test_the_setting_to_serve_is_the_recorded_one_even_where_another_is_faster() -> None:
    measured = timing().model_copy(update={"throughput": (SINGLE, BATCHED)})
    assert settings_of(measured) == (SINGLE, BATCHED)
    assert setting_to_serve(measured.model_copy(update={"best_throughput": SINGLE})) is SINGLE
    assert setting_to_serve(measured) is None  # none was within the demand
