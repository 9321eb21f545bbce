"""The models of one server by name: which engine answers for each, and how another one takes its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from slipway.serving.answering.engine_queue import EngineQueue
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.limits import RETRY_AFTER_SECONDS, Limits, RefusedError

LOOK_SECONDS = 0.01


@dataclass(frozen=True, eq=False)
class Serving:
    """An engine that answers, and the way to it."""

    model: ServedModel
    queue: EngineQueue


@dataclass
class Place:
    """A model of the server; ``serving`` is None while no engine answers for it.

    ``reason`` tells why what its alias names is not served, and is empty where it is.
    """

    name: str
    serving: Serving | None = None
    reason: str = ""
    leaving: set[Serving] = field(default_factory=set)

    @property
    def in_flight(self) -> int:
        """Requests that wait for an engine of this model, or are in one."""
        return sum(one.queue.waiting for one in (*self.leaving, *([self.serving] if self.serving else ())))

    def told(self) -> dict[str, str]:
        """As the protocol's index of models writes it."""
        version, state = (self.serving.model.version, "READY") if self.serving else ("", "UNAVAILABLE")
        return {"name": self.name, "version": version, "state": state, "reason": self.reason}


class Repository:
    """Models by name, changed by the event loop alone."""

    def __init__(self, limits: Limits, models: Iterable[ServedModel] = ()) -> None:
        self._limits = limits
        self._places: dict[str, Place] = {}
        self._retiring: set[asyncio.Task[bool]] = set()
        self.closed = False
        for model in models:
            self.put(model)

    def __iter__(self) -> Iterator[Place]:
        return iter(tuple(self._places.values()))  # which a thread may go through while models come and go

    @property
    def models(self) -> list[ServedModel]:
        """The engines that answer now."""
        return [place.serving.model for place in self if place.serving]

    @property
    def ready(self) -> bool:
        """Whether every model has an engine that answers."""
        return not self.closed and all(place.serving is not None for place in self)

    def find(self, name: str, version: str | None = None) -> Serving:
        """The engine that answers for the model ``name`` now; whoever waits for something asks again.

        Raises:
            RefusedError: it is not served here, in another version, or by no engine at present.
        """
        place = self._places.get(name)
        serving = place.serving if place else None
        if place is not None and serving is None:
            message = f"model {name} is not available: {place.reason}"
            raise RefusedError(503, "unavailable", message, RETRY_AFTER_SECONDS)
        if serving is None or version not in {None, serving.model.version}:
            asked = f"model {name!r}" if version is None else f"model {name!r} version {version}"
            raise RefusedError(404, "unknown model", f"{asked} is not served here; served: {self._served()}")
        return serving

    def put(self, model: ServedModel) -> Serving | None:
        """Let ``model`` answer from the next request on; what answered until now, which is to be retired."""
        place = self._places.setdefault(model.name, Place(model.name))
        before, place.serving, place.reason = place.serving, Serving(model, EngineQueue(model, self._limits)), ""
        return before

    def refuse(self, name: str, reason: str) -> None:
        """Tell why what the model's alias names is not served; what serves goes on."""
        self._places.setdefault(name, Place(name)).reason = reason

    def remove(self, name: str) -> Serving | None:
        """Serve the model no more; what answered until now, which is to be retired."""
        place = self._places.pop(name, None)
        return place.serving if place else None

    def retire(self, serving: Serving) -> asyncio.Task[bool]:
        """Let an engine that takes no more answer all that it took, and close it; whether it was idle then."""
        task = asyncio.create_task(self._retired(serving))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        return task

    async def close(self) -> bool:
        """Take no more, answer what was taken, and close every engine; whether all were idle then."""
        self.closed = True
        queues = [place.serving.queue.close() for place in self if place.serving]
        return all(await asyncio.gather(*queues, *self._retiring))

    async def _retired(self, serving: Serving) -> bool:
        place = self._places.get(serving.model.name, Place(serving.model.name))
        place.leaving.add(serving)
        # Longer than any client waits: a call that hangs then is left to the queue.
        deadline = time.monotonic() + self._limits.request_seconds
        while serving.queue.waiting and time.monotonic() < deadline and not self.closed:
            await asyncio.sleep(LOOK_SECONDS)
        try:
            return await serving.queue.close()
        finally:
            place.leaving.discard(serving)

    def _served(self) -> str:
        versions = (f"{model.name} version {model.version}" for model in self.models)
        return ", ".join(versions) or "nothing"
