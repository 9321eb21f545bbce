"""Deliveries as MLflow signs them, and a bus in place of Prefect."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from mlflow.webhooks.delivery import _generate_hmac_signature

from slipway.errors import InfrastructureError
from slipway.triggers.decide import Asked, Released
from slipway.triggers.log import Log

SECRET = "a secret of the tests"
NOW_S = 1_800_000_000.0
DELIVERY = "3f0e4a52-6f0b-4c1e-9d35-0d8a3b6c7e11"
RELEASED = {
    "digits": Released(params="params.yaml", alias=None, targets=("x86", "board")),
    "faces": Released(params="params/faces.yaml", alias="candidate", targets=("x86",)),
}


def announced(entity: str = "model_version", action: str = "created", **data: Any) -> bytes:
    """The body that MLflow would send; data left out is that of version 3 of digits."""
    whole = {"name": "digits", "version": "3", "source": "models:/m-1", "run_id": None, "tags": {}, "description": None}
    told = {"entity": entity, "action": action, "timestamp": "2026-11-20T10:00:00+00:00", "data": whole | data}
    return json.dumps(told).encode()


def signed(
    body: bytes, delivery_id: str = DELIVERY, timestamp_s: float = NOW_S, secret: str = SECRET
) -> dict[str, str]:
    """The headers that MLflow itself would send with ``body``."""
    timestamp = str(int(timestamp_s))
    return {
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Timestamp": timestamp,
        "X-MLflow-Signature": _generate_hmac_signature(secret, delivery_id, timestamp, body.decode()),
    }


class RecordedLog(Log):
    """A log whose lines can be read."""

    def __init__(self) -> None:
        self._written = io.StringIO()
        super().__init__(self._written)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was told so far."""
        return [json.loads(line) for line in self._written.getvalue().splitlines()]

    def told(self, what: str) -> list[str]:
        """The reasons of all lines about ``what``."""
        return [line["why"] for line in self.lines if line["what"] == what]


class FakeBus:
    """A Prefect that may be down, that may forget what it was asked, and that writes down at once what it keeps."""

    def __init__(self) -> None:
        self.asked: list[tuple[Asked, UUID]] = []
        self.held: set[UUID] = set()
        self.error: Exception | None = None
        self.forgets = False
        self.before: Callable[[Asked], None] = lambda _: None

    def ask(self, asked: Asked, key: str) -> UUID:
        """Take it."""
        self.check()
        self.before(asked)
        event_id = uuid5(NAMESPACE_URL, key)
        self.asked.append((asked, event_id))
        if not self.forgets:
            self.held.add(event_id)
        return event_id

    def holds(self, event_id: UUID) -> bool:
        """Whether it was kept."""
        self.check()
        return event_id in self.held

    def check(self) -> None:
        """Fail while it is down."""
        if self.error is not None:
            raise self.error

    def go_down(self) -> None:
        """Answer no more."""
        self.error = InfrastructureError("Prefect does not answer")
