"""The receiver over HTTP: what MLflow posts, and what people and Prometheus ask."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from slipway.errors import InfrastructureError, SlipwayError, first_line
from slipway.triggers.announcement import Announcement, read_announcement
from slipway.triggers.decide import Asked, Refusal, Released, decide, key_of
from slipway.triggers.deliveries import Deliveries, Delivery
from slipway.triggers.handover import Contact
from slipway.triggers.log import Log
from slipway.triggers.metrics import Figures
from slipway.triggers.signature import WINDOW_SECONDS, RefusedDeliveryError, checked_delivery_id

BODY_BYTES = 2**20
BODY_SECONDS = 10.0
# MLflow waits so long before each of its three further attempts, and only 1, 2 and 4 s without being told.
RETRY_AFTER_SECONDS = 10
CLIENT_LEFT = 499


@dataclass(frozen=True)
class Answer:
    """What a delivery is answered with."""

    status: int
    outcome: str
    why: str


class Receiver:
    """Takes deliveries signed with ``secret`` into ``store``, and calls ``wake`` when there is one.

    ``released`` reads what the project releases; while that fails a delivery is kept undecided.
    """

    def __init__(
        self,
        secret: str,
        store: Deliveries,
        released: Callable[[], Mapping[str, Released]],
        figures: Figures,
        log: Log,
        window_s: float = WINDOW_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret, self._store, self._released = secret, store, released
        self._figures, self._log, self._window_s, self._clock = figures, log, window_s, clock
        self.wake: Callable[[], None] = lambda: None
        self.contact: Callable[[], Contact] = Contact

    def take(self, headers: Mapping[str, str], body: bytes, sender: str) -> Answer:
        """Check a delivery, and keep it if something follows from it.

        Raises:
            RefusedDeliveryError: it is not MLflow's, or cannot be kept now.
        """
        delivery_id = checked_delivery_id(headers, body, self._secret, self._clock(), self._window_s)
        told = read_announcement(body)
        delivery = Delivery(delivery_id, self._clock(), sender, body)
        try:
            if self._store.seen(delivery_id):
                return Answer(200, "seen already", f"{told}: this delivery came before")
            return self._decide_and_keep(delivery, told)
        except InfrastructureError as error:
            raise RefusedDeliveryError(503, "not kept", str(error), RETRY_AFTER_SECONDS) from error

    def decide(self, delivery: Delivery) -> tuple[Asked | Refusal, str]:
        """What follows from a delivery that was kept, and the key to ask for it under.

        Raises:
            BadInputError: the project's parameters are wrong.
        """
        told = read_announcement(delivery.body)
        return decide(told, self._released(), delivery.delivery_id), key_of(told, delivery.delivery_id)

    def _decide_and_keep(self, delivery: Delivery, told: Announcement) -> Answer:
        why = str(told)
        try:
            asked, key = self.decide(delivery)
        except InfrastructureError:
            raise
        except SlipwayError as error:
            why = f"{told}; kept until the project's parameters can be read: {first_line(error)}"
        else:
            if isinstance(asked, Refusal):
                return Answer(200, "refused", asked.why)
            delivery = Delivery(delivery.delivery_id, delivery.received_s, delivery.sender, delivery.body, asked, key)
        if not self._store.keep(delivery):
            return Answer(200, "seen already", f"{told}: this delivery came before")
        self.wake()
        return Answer(202, "accepted", why)

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/mlflow", self._deliver, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
        ]
        handlers: dict[Any, Any] = {HTTPException: _refused, Exception: self._broken}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def _deliver(self, request: Request) -> Response:
        sender = "unknown" if request.client is None else request.client.host
        try:
            body = await read_body(request)
            answer = await asyncio.to_thread(self.take, request.headers, body, sender)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        except RefusedDeliveryError as error:
            self._figures.came(error.outcome)
            self._log.stranger(sender, error.outcome, str(error))
            retry = {} if error.retry_after_seconds is None else {"Retry-After": str(error.retry_after_seconds)}
            return _json({"outcome": error.outcome, "error": str(error)}, error.status, retry)
        except Exception as error:  # noqa: BLE001 - an answer in any case, and one that lets MLflow try again
            return await self._broken(request, error)
        self._figures.came(answer.outcome)
        self._log.tell(sender, answer.outcome, answer.why, delivery=request.headers.get("X-MLflow-Delivery-Id"))
        return _json({"outcome": answer.outcome, "why": answer.why}, answer.status)

    async def _health(self, _: Request) -> Response:
        contact = self.contact()
        told: dict[str, Any] = {"prefect": {"reachable": contact.reachable, "since": _time(contact.since_s)}}
        try:
            standing = await asyncio.to_thread(self._store.standing)
        except InfrastructureError as error:
            return _json(told | {"error": str(error)}, 503)
        return _json(told | {"pending": standing.pending, "last_delivery": _time(standing.last_s)})

    async def _metrics(self, _: Request) -> Response:
        return Response(await asyncio.to_thread(self._figures.exposed), media_type=self._figures.content_type)

    async def _broken(self, request: Request, error: Exception) -> Response:
        sender = "unknown" if request.client is None else request.client.host
        self._figures.came("failed")
        self._log.stranger(sender, "failed", f"unforeseen {type(error).__name__}: {' '.join(str(error).split())}")
        return _json({"outcome": "failed", "error": "the receiver failed; its log tells why"}, 500)


async def read_body(request: Request) -> bytes:
    """The request's body.

    Raises:
        RefusedDeliveryError: it is too large, or comes too slowly.
    """
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > BODY_BYTES:
                    message = f"the body is larger than the {BODY_BYTES} bytes that are allowed"
                    raise RefusedDeliveryError(413, "too large", message)
                chunks.append(chunk)
    except TimeoutError:
        raise RefusedDeliveryError(408, "slow body", f"the body did not come within {BODY_SECONDS:g} s") from None
    return b"".join(chunks)


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(content) + "\n", status, headers, media_type="application/json")


async def _refused(request: Request, error: HTTPException) -> Response:
    known = "POST /mlflow, GET /health, GET /metrics"
    # The path is the client's own: as JSON it stays in one line.
    message = f"{error.detail}: {request.method} {request.url.path[:100]}; known: {known}"
    return _json({"error": message}, error.status_code, error.headers)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
