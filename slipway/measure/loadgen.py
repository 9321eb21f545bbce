"""MLPerf LoadGen inside a worker: the tool sends the queries, takes the times and concludes; its log is told."""

from __future__ import annotations

import importlib.util
import json
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slipway.errors import BadInputError, InfrastructureError
from slipway.measure import protocol
from slipway.measure.latency import SAMPLES_FOR_P90, SAMPLES_FOR_P99, warm_up
from slipway.records import Scenario

MIN_SECONDS = 2.0
MAX_SECONDS = 60.0
_MODULE = "mlperf_loadgen"
_SCENARIOS = {"single-stream": "SingleStream", "server": "Server", "offline": "Offline"}
_PERCENTILES = {"single-stream": 90, "server": 99, "offline": None}
_LEAST_QUERIES = {"single-stream": SAMPLES_FOR_P90, "server": SAMPLES_FOR_P99, "offline": 1}
_RATES = {
    "single-stream": "result_qps_without_loadgen_overhead",
    "server": "result_completed_samples_per_sec",
    "offline": "result_samples_per_second",
}
# LoadGen makes its queries beforehand, and a run that uses them up is invalid: enough for one this much faster.
_FASTER = 1.5


def require_loadgen() -> None:
    """Return if LoadGen is installed.

    Raises:
        BadInputError: it is not; the extra that brings it is named.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise BadInputError("latency.scenario asks for MLPerf LoadGen, which is not installed; add slipway[loadgen]")


def run_scenario(asked: protocol.Scenario, run_once: Callable[[], object]) -> Scenario:
    """Let LoadGen measure ``run_once``, which answers ``asked.batch`` examples; its verdict is told, not judged.

    In ``single-stream`` a query is one call, sent when the last one is answered, and the 90th percentile is told; in
    ``server`` queries arrive at random (Poisson) and queue, and the 99th is told; in ``offline`` all examples are there
    at once, and only their rate is. The settings are short, so that a release stays quick: at least 2 seconds and the
    64 or 662 queries from which early stopping tells the percentile, at most a minute; an official result takes 10
    minutes (MLPerf Inference Rules, section 4). A server is invalid when its queue grows past those 2 seconds; whether
    its 99th percentile is good enough is for a gate to say.

    Raises:
        InfrastructureError: LoadGen left no result.
        Exception: whatever ``run_once`` raised.
    """
    import mlperf_loadgen

    warm_up(run_once, window_seconds=0.02, max_seconds=1.0)
    offline = asked.name == "offline"
    with tempfile.TemporaryDirectory() as folder, _System(run_once, asked.batch if offline else 1) as system:
        logs = mlperf_loadgen.LogSettings()
        logs.log_output.outdir = folder
        logs.enable_trace = False
        with _built(mlperf_loadgen, system.take if asked.name == "server" else system.answer) as (sut, library):
            mlperf_loadgen.StartTestWithLogSettings(sut, library, _settings(mlperf_loadgen, asked), logs, "")
        if system.error is not None:
            raise system.error
        told = _told(Path(folder) / "mlperf_log_detail.txt")
    percentile = _PERCENTILES[asked.name]
    try:
        return Scenario(
            name=asked.name,
            percentile=percentile,
            latency_ms=told[f"result_{percentile}.00_percentile_latency_ns"] / 1e6 if percentile else None,
            examples_per_s=told[_RATES[asked.name]] * (1 if offline else asked.batch),
            queries=told["result_query_count"],
            valid=told["result_validity"] == "VALID",
            target_per_s=asked.server_per_s,
            tool=f"MLPerf LoadGen {told['loadgen_version']}",
        )
    except KeyError as error:
        raise InfrastructureError(f"MLPerf LoadGen's log does not tell {error}; see its own messages above") from error


class _System:
    """The system under test as LoadGen sees it: it answers samples, ``group`` of them with one call.

    Queries that are taken wait in a queue, as in a server. The first error is kept and every query still answered, for
    LoadGen waits for all of them.
    """

    def __init__(self, run_once: Callable[[], object], group: int) -> None:
        self.error: Exception | None = None
        self._run_once = run_once
        self._group = group
        self._waiting: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        self._serving = threading.Thread(target=self._serve)

    def __enter__(self) -> _System:
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._serving.join()

    def take(self, samples: Sequence[Any]) -> None:
        """Queue a query, whose samples are gone when this returns."""
        self._waiting.put([sample.id for sample in samples])

    def answer(self, samples: Sequence[Any]) -> None:
        """Answer a query before this returns."""
        self._complete([sample.id for sample in samples])

    def _serve(self) -> None:
        while (ids := self._waiting.get()) is not None:
            self._complete(ids)

    def _complete(self, ids: Sequence[int]) -> None:
        import mlperf_loadgen

        for start in range(0, len(ids), self._group):
            if self.error is None:
                try:
                    self._run_once()
                except Exception as error:  # noqa: BLE001 - it may not pass through LoadGen; run_scenario raises it
                    self.error = error
            answered = [mlperf_loadgen.QuerySampleResponse(one, 0, 0) for one in ids[start : start + self._group]]
            mlperf_loadgen.QuerySamplesComplete(answered)


@contextmanager
def _built(loadgen: Any, issue: Callable[[Sequence[Any]], None]) -> Iterator[tuple[Any, Any]]:
    """LoadGen's handles on a system and on a library of one sample, which is in memory already."""
    sut = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    try:
        yield sut, library
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)


def _settings(loadgen: Any, asked: protocol.Scenario) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, _SCENARIOS[asked.name])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(MIN_SECONDS * 1e3)
    settings.max_duration_ms = round(MAX_SECONDS * 1e3)
    settings.min_query_count = _LEAST_QUERIES[asked.name]
    settings.single_stream_expected_latency_ns = max(round(asked.batch / asked.expected_per_s / _FASTER * 1e9), 1)
    settings.single_stream_target_latency_percentile = 0.90
    settings.offline_expected_qps = asked.expected_per_s * _FASTER
    if asked.server_per_s is not None:
        settings.server_target_qps = asked.server_per_s / asked.batch
        settings.server_target_latency_percentile = 0.99
        settings.server_target_latency_ns = round(MIN_SECONDS * 1e9)
    return settings


def _told(log: Path) -> dict[str, Any]:
    """Keys and values of LoadGen's detail log, whose lines are JSON behind a mark."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InfrastructureError(f"MLPerf LoadGen left no log: {error}; see its own messages above") from error
    entries = (json.loads(line.removeprefix(":::MLLOG ")) for line in lines if line.startswith(":::MLLOG "))
    return {entry["key"]: entry["value"] for entry in entries}
