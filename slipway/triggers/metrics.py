"""What Prometheus reads of the receiver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from slipway.errors import SlipwayError
from slipway.triggers.deliveries import Standing

BUCKETS_S = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 10_800, 86_400)


class Figures:
    """The figures of one receiver; ``standing`` is asked whenever somebody reads them."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, standing: Callable[[], Standing]) -> None:
        own = CollectorRegistry()
        self._deliveries = Counter("slipway_webhook_deliveries", "Deliveries, by outcome.", ("outcome",), registry=own)
        self._waited = Histogram(
            "slipway_webhook_waited_seconds", "From a delivery to its event.", buckets=BUCKETS_S, registry=own
        )
        self._prefect = Gauge("slipway_webhook_prefect_up", "Whether Prefect answers.", registry=own)
        own.register(_Waiting(standing))
        self._registry = own

    def came(self, outcome: str) -> None:
        """Count a delivery."""
        self._deliveries.labels(outcome).inc()

    def handed_over(self, waited_s: float) -> None:
        """Count a delivery that Prefect took."""
        self._waited.observe(max(waited_s, 0.0))

    def prefect(self, reachable: bool) -> None:
        """Tell whether Prefect answers."""
        self._prefect.set(reachable)

    def exposed(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class _Waiting(Collector):
    """What waits; nothing of it while the store cannot be read, which its own figure tells."""

    def __init__(self, standing: Callable[[], Standing]) -> None:
        self._standing = standing

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that the store is not read before somebody asks."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the store."""
        up = GaugeMetricFamily("slipway_webhook_store_up", "Whether deliveries can be read and kept.")
        try:
            standing = self._standing()
        except SlipwayError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        pending = GaugeMetricFamily("slipway_webhook_pending", "Deliveries that Prefect does not have yet.")
        pending.add_metric([], standing.pending)
        oldest = GaugeMetricFamily("slipway_webhook_oldest_pending_seconds", "How long the oldest of them waits.")
        oldest.add_metric([], 0 if standing.oldest_s is None else max(time.time() - standing.oldest_s, 0))
        yield from (up, pending, oldest)
