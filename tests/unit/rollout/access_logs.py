"""Access logs as Envoy and `slipway serve` write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slipway.rollout.observing.observer import Logs
from slipway.rollout.store.rollouts import Label
from tests.unit.rollout.states import CHALLENGER, CHAMPION, STARTED_S

DIGESTS = {"champion": CHAMPION, "challenger": CHALLENGER}


class Written:
    """The three logs of a rollout, written to line by line; times are in seconds since the rollout began."""

    def __init__(self, folder: Path) -> None:
        self.logs = Logs(folder / "access.log", folder / "champion.log", folder / "challenger.log")

    def routed(self, arm: str, at_s: float = 1.0, ms: float | None = 2.0, **changed: Any) -> None:
        """A request that was sent to an arm, and answered by it, but for what is ``changed``."""
        line = {
            "start_s": STARTED_S + at_s,
            "request_id": "some",
            "asked": arm,
            "answered": arm,
            "code": 200,
            "upstream_us": None if ms is None else round(ms * 1000),
            "total_us": 5000,
            "flags": "-",
        }
        append(self.logs.splitter, line | changed)

    def served(self, arm: str, request_id: str | None, *top1: int, at_s: float = 1.0, **changed: Any) -> None:
        """An answer of an arm's server."""
        line = {
            "time": STARTED_S + at_s,
            "request_id": request_id,
            "model": "digits.x86",
            "version": "1",
            "digest": DIGESTS[arm],
            "latency_us": 1500,
            "top1": list(top1),
        }
        append(self.logs.champion if arm == "champion" else self.logs.challenger, line | changed)

    def pair(self, request_id: str, champion: int, challenger: int, at_s: float = 1.0) -> None:
        """A mirrored request of one example."""
        self.served("champion", request_id, champion, at_s=at_s)
        self.served("challenger", request_id, challenger, at_s=at_s)


def append(log: Path, line: dict[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


class FakeLabels:
    """Labels in memory; times are in seconds since the rollout began."""

    def __init__(self) -> None:
        self.labels: list[Label] = []

    def tell(self, request_id: str, *classes: int, at_s: float = 2.0) -> None:
        self.labels.append(Label(len(self.labels) + 1, request_id, classes, STARTED_S + at_s))

    def labels_after(self, name: str, number: int, since_s: float) -> list[Label]:
        return [label for label in self.labels if label.number > number and label.at_s >= since_s]
