"""The way of a request to its engine: a bounded queue, a thread for each of its streams, and a limit on the wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from slipway.errors import BadInputError
from slipway.serving.inference_json import Array
from slipway.serving.limits import RETRY_AFTER_SECONDS, Limits, RefusedError
from slipway.serving.served import ServedModel

GONE_SECONDS = 0.5  # between two looks at whether a client still waits; each lets uvicorn read on, so not too often
CLIENT_LEFT = 499  # as nginx logs it; nobody is left to read it


@dataclass(frozen=True)
class Done:
    """The outputs by name, how many examples there were, and how long they waited for the engine."""

    outputs: dict[str, Array]
    examples: int
    queued_ns: int


class EngineQueue:
    """Lets an engine answer as many requests at once as it has streams, and leaves the event loop free meanwhile."""

    def __init__(self, model: ServedModel, limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._engine = ThreadPoolExecutor(max_workers=model.streams, thread_name_prefix="engine")
        self._held: set[Future[Done]] = set()
        self.closed = False

    @property
    def waiting(self) -> int:
        """The requests that the engine still has to answer, or is answering: also those that nobody waits for."""
        return len(self._held)

    async def infer(self, arrays: Mapping[str, Array], gone: Callable[[], Awaitable[bool]]) -> Done:
        """The engine's answer; ``gone`` tells whether the client has left.

        Raises:
            BadInputError: the arrays are not those that the engine takes.
            RefusedError: too many wait already, the engine did not come to it in time, it is being closed, or the
                client has left.
        """
        examples = self._examples(arrays)
        if self.closed or self.waiting >= self._limits.waiting:
            message = "the server is closing" if self.closed else f"{self.waiting} requests wait already"
            raise RefusedError(503, "overload", f"{message}; try again later", RETRY_AFTER_SECONDS)
        box = [arrays]
        future = self._engine.submit(self._run, box, examples, time.perf_counter_ns())
        self._held.add(future)
        future.add_done_callback(self._held.discard)
        try:
            return await self._awaited(future, gone)
        finally:
            # The executor keeps what is cancelled until a thread comes by: not its arrays too.
            if future.cancel():
                box.clear()

    async def _awaited(self, future: Future[Done], gone: Callable[[], Awaitable[bool]]) -> Done:
        running = asyncio.wrap_future(future)
        running.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio complains of it
        deadline = time.monotonic() + self._limits.request_seconds
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.wait([running], timeout=min(left, GONE_SECONDS))
            if running.cancelled():
                raise RefusedError(503, "overload", "the server has closed; try again later", RETRY_AFTER_SECONDS)
            if running.done():
                return running.result()
            if await gone():
                raise RefusedError(CLIENT_LEFT, "client left", "the client left before its answer")
        message = f"no answer within {self._limits.request_seconds:g} s; try again later"
        raise RefusedError(503, "time-out", message, RETRY_AFTER_SECONDS)

    async def close(self) -> bool:
        """Take no more, answer what waits within the limit, and close the model if it is idle then; whether it was."""
        self.closed = True
        deadline = time.monotonic() + self._limits.drain_seconds
        while self.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        self._engine.shutdown(wait=False, cancel_futures=True)
        idle = not self.waiting
        if idle:  # a runtime that lets go of its memory in the middle of a call takes the process with it
            self._model.close()
        return idle

    def _examples(self, arrays: Mapping[str, Array]) -> int:
        sizes = {array.shape[0] if array.ndim else 1 for array in arrays.values()}
        if len(sizes) > 1:
            raise BadInputError(f"the inputs have batches of {' and '.join(map(str, sorted(sizes)))}; give one size")
        examples = max(sizes, default=1)  # without any input it is the engine that refuses, and tells what it takes
        if not 1 <= examples <= self._limits.batch:
            raise BadInputError(f"a batch of {examples} was sent; from 1 to {self._limits.batch} examples are taken")
        return examples

    def _run(self, box: list[Mapping[str, Array]], examples: int, asked_ns: int) -> Done:
        start, arrays = time.perf_counter_ns(), box.pop()
        outputs = self._model.infer(arrays)
        self._model.statistics.ran(examples, start - asked_ns, time.perf_counter_ns() - start)
        return Done(outputs, examples, start - asked_ns)
