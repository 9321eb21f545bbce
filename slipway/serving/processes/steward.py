"""Does what the supervising process says while requests are answered: engines come, take another's place, and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread

from slipway.records import Record
from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.answering.opening import opened_beside, opened_in_time
from slipway.serving.answering.repository import Repository, Serving
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.metrics import Metrics
from slipway.serving.processes.messages import (
    Channel,
    Closed,
    End,
    Opened,
    Order,
    Reach,
    Refuse,
    Start,
    Swap,
    Unload,
)
from slipway.serving.processes.refusals import outcome_of, refusal_of


class Steward:
    """Keeps ``repository`` as the ``orders`` say, and reports on ``channel``.

    ``orphaned`` tells that the supervising process ended without a word.
    """

    def __init__(
        self, channel: Channel[Order], orders: Iterator[Order], repository: Repository, metrics: Metrics
    ) -> None:
        self._channel, self._orders, self._repository, self._metrics = channel, orders, repository, metrics
        self._serving: dict[str, int] = {}
        self.orphaned = False

    def start(self, start: Start) -> None:
        """Open the first engines."""
        self._metrics.restarts(start.restarts)
        for engine in start.engines:
            try:
                self._install(engine, *opened_in_time(engine))
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises is told to the supervising process
                self._refused(engine, error)
        for name, reason in start.refusals.items():
            self._repository.refuse(name, reason)

    async def run(self, end: Callable[[], None]) -> None:
        """Do what is ordered, one after the other; ``end`` is called, in a thread, once all shall end."""
        arrived: asyncio.Queue[Order] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            ended = False
            for order in self._orders:
                ended = isinstance(order, End)
                if ended:
                    break
                loop.call_soon_threadsafe(arrived.put_nowait, order)
            self.orphaned = not ended
            end()

        Thread(target=read, name="orders", daemon=True).start()
        while True:
            await self._do(await arrived.get())

    async def _do(self, order: Order) -> None:
        match order:
            case Swap():
                await self._swap(order.engine)
            case Refuse():
                self._repository.refuse(order.name, order.reason)
                self._metrics.swapped(order.name, order.outcome)
            case Unload():
                self._leave(self._repository.remove(order.name), self._serving.pop(order.name, None))
            case Reach():
                self._metrics.registry(order.reason is None)

    async def _swap(self, engine: LocalEngine) -> None:
        try:
            ready = await opened_beside(engine)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises, the engine that serves goes on
            self._refused(engine, error)
            self._metrics.swapped(engine.name, outcome_of(error))
            return
        self._metrics.swapped(engine.name, "swapped")
        self._install(engine, *ready)

    def _install(self, engine: LocalEngine, model: ServedModel, notes: tuple[str, ...]) -> None:
        before = self._repository.put(model)
        former = self._serving.get(engine.name)
        self._serving[engine.name] = engine.order
        self._say(Opened(order=engine.order, notes=notes))
        self._leave(before, former)

    def _refused(self, engine: LocalEngine, error: Exception) -> None:
        refused = refusal_of(engine.order, error)
        self._repository.refuse(engine.name, f"version {engine.version} is refused: {refused.error}")
        self._say(refused)

    def _leave(self, serving: Serving | None, order: int | None) -> None:
        if serving is not None and order is not None:
            self._repository.retire(serving).add_done_callback(lambda _: self._say(Closed(order=order)))

    def _say(self, report: Record) -> None:
        with suppress(OSError):  # nobody listens any more: the orders have ended too
            self._channel.send(report)
