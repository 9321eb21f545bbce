"""The way of a request to its engine: a bounded queue, a thread of the engine's own, and a limit on the wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from slipway.errors import BadInputError
from slipway.serving.inference_json import Array
from slipway.serving.limits import Limits, RefusedError
from slipway.serving.served import ServedModel

RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True)
class Done:
    """The outputs by name, how many examples there were, and how long they waited for the engine."""

    outputs: dict[str, Array]
    examples: int
    queued_ns: int


class EngineQueue:
    """Lets one engine answer one request after another, so that the event loop is free for all that is quick."""

    def __init__(self, model: ServedModel, limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self.waiting = 0
        self.closed = False

    async def infer(self, arrays: Mapping[str, Array]) -> Done:
        """The engine's answer.

        Raises:
            BadInputError: the arrays are not those that the engine takes.
            RefusedError: too many wait already, the engine did not come to it in time, or it is being closed.
        """
        examples = self._examples(arrays)
        if self.closed or self.waiting >= self._limits.waiting:
            message = "the server is closing" if self.closed else f"{self.waiting} requests wait already"
            raise RefusedError(503, "overload", f"{message}; try again later", RETRY_AFTER_SECONDS)
        self.waiting += 1
        try:
            asked = time.perf_counter_ns()
            running = asyncio.get_running_loop().run_in_executor(self._engine, self._run, arrays, examples, asked)
            async with asyncio.timeout(self._limits.request_seconds):
                return await running
        except TimeoutError:
            message = f"no answer within {self._limits.request_seconds:g} s; try again later"
            raise RefusedError(503, "time-out", message, RETRY_AFTER_SECONDS) from None
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        """Take no more, answer what waits within the limit, and close the model."""
        self.closed = True
        deadline = time.monotonic() + self._limits.drain_seconds
        while self.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        self._engine.shutdown(wait=True, cancel_futures=True)
        self._model.close()

    def _examples(self, arrays: Mapping[str, Array]) -> int:
        sizes = {array.shape[0] if array.ndim else 1 for array in arrays.values()}
        if len(sizes) > 1:
            raise BadInputError(f"the inputs have batches of {' and '.join(map(str, sorted(sizes)))}; give one size")
        examples = max(sizes, default=1)  # without any input it is the engine that refuses, and tells what it takes
        if not 1 <= examples <= self._limits.batch:
            raise BadInputError(f"a batch of {examples} was sent; from 1 to {self._limits.batch} examples are taken")
        return examples

    def _run(self, arrays: Mapping[str, Array], examples: int, asked_ns: int) -> Done:
        start = time.perf_counter_ns()
        outputs = self._model.infer(arrays)
        statistics = self._model.statistics
        statistics.queue.add(start - asked_ns)
        statistics.infer.add(time.perf_counter_ns() - start)
        statistics.examples += examples
        statistics.last_ms = int(time.time() * 1000)
        return Done(outputs, examples, start - asked_ns)
