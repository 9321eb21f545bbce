"""The way of a request to its engine: a bounded queue, a thread for each of its streams, and a limit on the wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from slipway.errors import BadInputError
from slipway.serving.answering.batching import Asked, Call, Gatherer, batching_of
from slipway.serving.answering.joint_call import NO_BATCH, Joining, joined, split
from slipway.serving.answering.served import ServedModel
from slipway.serving.answering.waking import Waking
from slipway.serving.http.inference_json import Array
from slipway.serving.http.limits import RETRY_AFTER_SECONDS, Limits, RefusedError

GONE_SECONDS = 0.5  # between two looks at whether a client still waits; each lets uvicorn read on, so not too often
CLIENT_LEFT = 499  # as nginx logs it; nobody is left to read it


@dataclass(frozen=True)
class Done:
    """The outputs by name, how many examples there were, and how long they waited for the engine.

    ``engine_ns`` is how long its call took, which answered ``batch`` examples in all.
    """

    outputs: dict[str, Array]
    examples: int
    queued_ns: int
    engine_ns: int
    batch: int


class EngineQueue:
    """Lets an engine answer as many requests at once as it has streams, and leaves the event loop free meanwhile.

    Where ``limits.batching`` asks for it and the engine bears it, one call answers several requests.
    """

    def __init__(self, model: ServedModel, limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._engine = ThreadPoolExecutor(max_workers=model.streams, thread_name_prefix="engine")
        self._held: set[Future[Done]] = set()
        timing = model.evidence.timing if limits.batching == "auto" else None
        batching = batching_of(limits.batching, timing)
        self._gatherer = Gatherer(batching, self._send) if batching is not None else None
        self._joining = Joining(model) if batching is not None else None
        self.closed = False

    @property
    def waiting(self) -> int:
        """The requests that the engine still has to answer, or is answering: also those that nobody waits for."""
        return len(self._held)

    @property
    def alone(self) -> str | None:
        """Why each request has a call of its own although batching was asked for; None where they are joined."""
        return self._joining.refusal if self._joining is not None else None

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
        asked: Asked[Done] = Asked(arrays, examples)
        self._held.add(asked.answer)
        asked.answer.add_done_callback(self._held.discard)
        waking = Waking()
        asked.answer.add_done_callback(lambda _: waking.wake())
        try:
            if self._gatherer is not None and self.alone is None and asked.joinable:
                self._gatherer.add(asked)
            else:
                self._send(Call(asked))
            return await self._awaited(asked.answer, waking, gone)
        finally:
            asked.forget()  # what waits for a thread to come by keeps no arrays

    async def _awaited(self, answer: Future[Done], waking: Waking, gone: Callable[[], Awaitable[bool]]) -> Done:
        deadline = time.monotonic() + self._limits.request_seconds
        while (left := deadline - time.monotonic()) > 0:
            await waking.sleep(min(left, GONE_SECONDS))
            if answer.cancelled():
                raise RefusedError(503, "overload", "the server has closed; try again later", RETRY_AFTER_SECONDS)
            if answer.done():
                return answer.result()
            if await gone():
                raise RefusedError(CLIENT_LEFT, "client left", "the client left before its answer")
        message = f"no answer within {self._limits.request_seconds:g} s; try again later"
        raise RefusedError(503, "time-out", message, RETRY_AFTER_SECONDS)

    async def close(self) -> bool:
        """Take no more, answer what waits within the limit, and close the model if it is idle then; whether it was."""
        self.closed = True
        if self._gatherer is not None:
            self._gatherer.flush()
        deadline = time.monotonic() + self._limits.drain_seconds
        while self.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for answer in list(self._held):
            answer.cancel()
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

    def _send(self, call: Call[Done]) -> None:
        self._engine.submit(self._run, call)

    def _run(self, call: Call[Done]) -> None:
        asked = self._gatherer.taken(call) if self._gatherer is not None else call.asked
        begun = [one for one in asked if one.begin()]
        joining, gatherer = self._joining, self._gatherer
        if len(begun) < 2 or joining is None or gatherer is None or not joining.allowed(begun[0].arrays):
            for one in begun:
                self._by_itself(one)
        elif not self._together(begun, joining):
            answered = [self._by_itself(one) for one in begun]
            if all(answered) and not gatherer.shrink(sum(one.examples for one in begun)):
                joining.refuse("what it answers one by one it does not answer together")

    def _together(self, begun: list[Asked[Done]], joining: Joining) -> bool:
        """Answer them all in one call; False where that cannot be, and nobody was answered."""
        sizes = [one.examples for one in begun]
        start = time.perf_counter_ns()
        try:
            outputs = self._model.infer(joined([one.arrays for one in begun]))
        except Exception:  # noqa: BLE001 - whoever asked for what it cannot take will be told so, and nobody else
            return False
        end = time.perf_counter_ns()
        parts = split(outputs, sizes)
        if parts is None:
            joining.refuse(NO_BATCH)
            return False
        queued = [start - one.asked_ns for one in begun]
        self._model.statistics.ran(sum(sizes), sum(queued) // len(queued), end - start)
        for one, part, waited in zip(begun, parts, queued, strict=True):
            one.answer.set_result(Done(part, one.examples, waited, end - start, sum(sizes)))
        return True

    def _by_itself(self, asked: Asked[Done]) -> bool:
        """Answer it in a call of its own, if only with an error; False for an error."""
        start = time.perf_counter_ns()
        try:
            outputs = self._model.infer(asked.arrays)
        except BaseException as error:  # noqa: BLE001 - as a thread pool does, it is raised where the answer is awaited
            asked.answer.set_exception(error)
            del asked  # which would keep the error, and its traceback this frame
            return False
        end = time.perf_counter_ns()
        self._model.statistics.ran(asked.examples, start - asked.asked_ns, end - start)
        asked.answer.set_result(Done(outputs, asked.examples, start - asked.asked_ns, end - start, asked.examples))
        return True
