"""Each splitter with traffic to share: in memory, on a recorded cluster, and on a real Envoy before two servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from slipway.rollout.gateway.envoy_config import CHALLENGER
from slipway.rollout.splitters.base import Splitter
from slipway.rollout.splitters.kserve import KServePlace, KServeSplitter
from tests.contract.splitters.cluster import ApiError, Cluster
from tests.contract.splitters.edge import Edge, arms
from tests.fakes.splitter import FakeSplitter

ENVOY = pytest.param("envoy", marks=pytest.mark.integration)


class Traffic(Protocol):
    """A splitter and the requests that it shares."""

    @property
    def splitter(self) -> Splitter:
        """What is tested."""
        ...

    def ask(self, requests: int) -> int:
        """Send so many requests; how many the challenger answered."""
        ...

    def cut(self) -> None:
        """Let whatever shares the traffic be out of reach."""
        ...


class FakeTraffic:
    """Requests that the fake pretends."""

    def __init__(self) -> None:
        self.splitter = FakeSplitter()

    def ask(self, requests: int) -> int:
        """See ``Traffic.ask``."""
        return self.splitter.answer(requests)

    def cut(self) -> None:
        """See ``Traffic.cut``."""
        self.splitter.reachable = False


class KServeTraffic:
    """Requests that are shared as the routes of the recorded cluster say, and counted as its metrics would."""

    def __init__(self) -> None:
        self.cluster = Cluster(v2=0)
        self.cluster.lag = 3
        self.asked: list[tuple[float, bool]] = []
        self.splitter = KServeSplitter(self.cluster, KServePlace("ml", "m", "v2"), self.counts)

    def ask(self, requests: int) -> int:
        """See ``Traffic.ask``."""
        percent = self.cluster.share("v2")
        to_challenger = requests * percent // 100
        self.asked += [(time.time(), i < to_challenger) for i in range(requests)]
        return to_challenger

    def cut(self) -> None:
        """See ``Traffic.cut``."""
        self.cluster.failure = ApiError(0, "Max retries exceeded")

    def counts(self, since_s: float) -> tuple[int, int]:
        """What metrics tell."""
        seen = [challenger for when_s, challenger in self.asked if when_s >= since_s]
        return len(seen) - sum(seen), sum(seen)


class EnvoyTraffic:
    """Real requests."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self.splitter = edge.splitter

    def ask(self, requests: int) -> int:
        """See ``Traffic.ask``."""
        answered = arms(self._edge.ask(requests))
        assert answered[None] == 0
        return answered[CHALLENGER]

    def cut(self) -> None:
        """See ``Traffic.cut``."""
        self._edge.kill_envoy()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    """A real Envoy before two servers."""
    with Edge(tmp_path) as running:
        yield running


@pytest.fixture(params=["fake", "kserve", ENVOY])
def traffic(request: pytest.FixtureRequest) -> Traffic:
    """Each splitter in turn."""
    if request.param == "envoy":
        return EnvoyTraffic(request.getfixturevalue("edge"))
    return FakeTraffic() if request.param == "fake" else KServeTraffic()
