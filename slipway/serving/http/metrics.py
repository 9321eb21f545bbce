"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from slipway.serving.answering.drift import DriftCollector
from slipway.serving.answering.served import ServedModel

# Engines answer in fractions of a millisecond: the usual buckets, from 5 ms on, would tell nothing of them.
BUCKETS_S = (*(scale * step for scale in (1e-4, 1e-3, 1e-2, 1e-1) for step in (1, 1.5, 2, 3, 5, 7)), 1, 2, 5, 10)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
LABELS = ("model", "version", "digest")


class Metrics:
    """The figures of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        own = CollectorRegistry()
        time_s = partial(Histogram, labelnames=LABELS, buckets=BUCKETS_S, registry=own)
        self._latency = time_s("slipway_request_seconds", "From the request's first byte to its answer.")
        self._queued = time_s("slipway_queue_seconds", "Waiting for the engine.")
        self._batch = Histogram(
            "slipway_request_examples", "Examples per request.", LABELS, buckets=BATCHES, registry=own
        )
        self._errors = Counter("slipway_errors", "Requests not answered, by cause.", ("model", "cause"), registry=own)
        self._in_flight = Gauge(
            "slipway_in_flight", "Requests that wait for the engine or are in it.", ("model",), registry=own
        )
        self._dropped = Counter(
            "slipway_access_log_dropped", "Lines of the access log that could not be written.", registry=own
        )
        self._swaps = Counter(
            "slipway_swaps", "Engines that were to take over, by outcome.", ("model", "outcome"), registry=own
        )
        self._reachable = Gauge("slipway_registry_up", "Whether the registry can be asked for aliases.", registry=own)
        self._reachable.set(1)
        self._restarts = Gauge(
            "slipway_engine_process_restarts", "How often the answering process had to be started anew.", registry=own
        )
        self._told_dropped, self._telling = 0, threading.Lock()
        self._registry = own

    def answered(self, model: ServedModel, seconds: float, queued_seconds: float, examples: int) -> None:
        """Count a request that was answered."""
        labels = (model.name, model.version, model.digest)
        self._latency.labels(*labels).observe(seconds)
        self._queued.labels(*labels).observe(queued_seconds)
        self._batch.labels(*labels).observe(examples)

    def failed(self, name: str, cause: str) -> None:
        """Count a request that was not answered."""
        self._errors.labels(name, cause).inc()

    def in_flight(self, requests: Mapping[str, int]) -> None:
        """Tell how many requests of each model wait for its engine or are in it now."""
        self._in_flight.clear()
        for name, count in requests.items():
            self._in_flight.labels(name).set(count)

    def watch_inputs(self, models: Callable[[], Iterable[ServedModel]]) -> None:
        """Tell how far the inputs of these ``models`` have moved, whenever somebody asks."""
        self._registry.register(
            DriftCollector(lambda: ((one.name, one.version, one.watch) for one in models() if one.watch is not None))
        )

    def swapped(self, name: str, outcome: str) -> None:
        """Count an engine that took another's place, or why one did not."""
        self._swaps.labels(name, outcome).inc()

    def registry(self, reachable: bool) -> None:
        """Tell whether the registry can be asked."""
        self._reachable.set(reachable)

    def restarts(self, count: int) -> None:
        """Tell how often the process was started anew."""
        self._restarts.set(count)

    def exposed(self, log_dropped: int) -> bytes:
        """All of them in Prometheus' text format, with the lines that the access log had to drop so far."""
        with self._telling:  # two may ask at once, from two threads
            self._dropped.inc(max(log_dropped - self._told_dropped, 0))
            self._told_dropped = max(log_dropped, self._told_dropped)
        return generate_latest(self._registry)
