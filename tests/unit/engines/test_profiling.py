from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.engines.profiling import mean_layers, precision_of, write_trace
from slipway.records import Layer


def call(**times_us: float) -> list[Layer]:
    return [Layer(name=n, kind="Add", precision="fp32", multiplies=False, time_us=t) for n, t in times_us.items()]


def means(*calls: list[Layer]) -> dict[str, float | None]:
    return {layer.name: layer.time_us for layer in mean_layers(calls)}


def test_times_are_means_over_the_calls_in_the_order_of_execution() -> None:
    assert list(means(call(b=1.0, a=2.0), call(b=1.0, a=2.0)).items()) == [("b", 1.0), ("a", 2.0)]


def test_calls_that_the_host_disturbed_do_not_count() -> None:
    disturbed = call(a=900.0, b=1.0)
    quiet = [call(a=1.0, b=2.0), call(a=3.0, b=2.0), call(a=2.0, b=5.0)]
    assert means(disturbed, *quiet, disturbed) == {"a": 2.0, "b": 3.0}, "at least three"
    assert means(*quiet, *[disturbed] * 9) == {"a": 2.0, "b": 3.0}, "the fastest quarter"
    assert means(*quiet, call(a=6.0, b=7.0), *[disturbed] * 12) == {"a": 3.0, "b": 4.0}


def test_one_call_is_its_own_mean() -> None:
    assert means(call(a=3.0)) == {"a": 3.0}


def test_what_a_call_did_not_reach_takes_no_time_there() -> None:
    assert means(call(a=4.0), call(a=2.0, b=2.0)) == {"a": 3.0, "b": 1.0}


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float", "fp32"), ("c10::BFloat16", "bf16"), ("uint8", "int8"), ("s8", "int8"), ("int64", "int64")],
)
def test_types_of_all_runtimes_have_one_name(dtype: str, precision: str) -> None:
    assert precision_of(dtype) == precision


def test_a_trace_is_json_that_chrome_reads(tmp_path: Path) -> None:
    event = {"name": "conv", "ph": "X", "ts": 0, "dur": 1, "pid": 0, "tid": 0}
    write_trace(tmp_path / "trace.json", iter([event]))
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"] == [event]
