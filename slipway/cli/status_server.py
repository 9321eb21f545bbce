"""Where the rollouts stand, over HTTP: JSON that Argo Rollouts can steer by, and metrics that Prometheus scrapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from slipway.cli.canary import rollout_json
from slipway.cli.status import named
from slipway.errors import BadInputError, SlipwayError, first_line
from slipway.records import Rollout

METRICS = "/metrics"
CLIENT_SECONDS = 10.0


class StatusServer(ThreadingHTTPServer):
    """Answers GET: ``/`` with every engine's newest rollout, ``/NAME`` with those of a model or engine, ``/metrics``.

    ``rollouts`` tells the newest ones at each request; 503 while that fails, 404 for a name that has none.

    Raises:
        BadInputError: the address is taken or not this host's.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, rollouts: Callable[[], list[Rollout]]) -> None:
        self.rollouts = rollouts
        try:
            super().__init__((host, port), _Answer)
        except (OSError, OverflowError) as error:
            raise BadInputError(f"cannot listen on {host}:{port}: {error}; give another --listen") from error

    @property
    def address(self) -> str:
        """The URL that it answers at."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: StatusServer
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            every = self.server.rollouts()
        except SlipwayError as error:
            self._send(503, json.dumps({"error": first_line(error)}))
            return
        if path == METRICS:
            self._send(200, metrics(every), "text/plain; version=0.0.4; charset=utf-8")
            return
        name = path.strip("/")
        found = named(every, name or None)
        told: dict[str, Any] = {"rollouts": [rollout_json(one) for one in found]}
        if name and not found:
            told = {"error": f"{name} has no rollout"}
        self._send(404 if name and not found else 200, json.dumps(told))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it is asked every few seconds."""

    def _send(self, status: int, text: str, kind: str = "application/json") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def metrics(rollouts: list[Rollout]) -> str:
    """The rollouts in Prometheus' text format: share, phase, and of each gate its verdict and its figures."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Told(Collector):
        def collect(self) -> Iterator[Metric]:
            share = GaugeMetricFamily("slipway_rollout_share_percent", "Of the traffic.", labels=["engine"])
            phase = GaugeMetricFamily("slipway_rollout_phase", "1 for the one it is in.", labels=["engine", "phase"])
            gate = GaugeMetricFamily(
                "slipway_rollout_gate", "1 for what it concludes.", labels=["engine", "gate", "verdict"]
            )
            figure = GaugeMetricFamily(
                "slipway_rollout_figure", "What a gate was read from.", labels=["engine", "gate", "figure"]
            )
            for one in rollouts:
                share.add_metric([one.name], one.share_percent)
                phase.add_metric([one.name, one.phase], 1)
                for reading in one.readings:
                    gate.add_metric([one.name, reading.gate, reading.decision.verdict], 1)
                    for name, value in reading.figures.items():
                        if value is not None:
                            figure.add_metric([one.name, reading.gate, name], value)
            yield from (share, phase, gate, figure)

    registry = CollectorRegistry()
    registry.register(Told())
    return generate_latest(registry).decode()
