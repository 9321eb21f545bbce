"""Dynamic batching: requests of the same shape that wait for the engine at the same time become one call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from slipway.decisions.throughput import setting_to_serve
from slipway.errors import BadInputError
from slipway.records import Timing
from slipway.serving.http.inference_json import Array

Shape: TypeAlias = tuple[tuple[str, str, tuple[int, ...]], ...]

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Batching:
    """At most ``max_examples`` in one call, the first of which waits at most ``max_delay_s`` for further ones.

    Without a delay nobody waits for others: a batch is what came while the engine was busy.

    Raises:
        BadInputError: a batch of fewer than two, or a delay that is negative or not finite.
    """

    max_examples: int
    max_delay_s: float = 0.0

    def __post_init__(self) -> None:
        if self.max_examples < 2:
            raise BadInputError(f"batches of {self.max_examples} were asked for; give 2 or more, or no batching")
        if not 0 <= self.max_delay_s < float("inf"):
            raise BadInputError(f"a delay of {self.max_delay_s} s was asked for; give 0 or more, and a finite number")


AskedBatching: TypeAlias = Batching | Literal["auto"] | None


def read_batching(text: str) -> AskedBatching:
    """What ``off``, ``auto``, ``8`` and ``8:2.5`` ask for; the latter two are examples, and a delay in ms.

    Raises:
        BadInputError: it is none of them.
    """
    if text in {"off", "auto"}:
        return "auto" if text == "auto" else None
    examples, _, delay_ms = text.partition(":")
    try:
        return Batching(int(examples), float(delay_ms or 0) / 1000)
    except ValueError:
        raise BadInputError(f"batching is off, auto, or EXAMPLES[:DELAY_MS] such as 8:2.5, found {text!r}") from None


def batching_of(asked: AskedBatching, timing: Timing | None) -> Batching | None:
    """What is asked for; ``auto`` is the batch that the release found best by this timing, where it is more than one.

    It found the best rate within the demand. None waits for others then: the engine was not measured waiting.
    """
    if asked != "auto":
        return asked
    best = setting_to_serve(timing) if timing is not None else None
    return Batching(best.batch) if best is not None and best.batch > 1 else None


class Asked(Generic[Answer]):
    """A request on its way: its arrays, which are let go of once they are used, and the answer to come."""

    def __init__(self, arrays: Mapping[str, Array], examples: int) -> None:
        self.arrays, self.examples = arrays, examples
        self.asked_ns = time.perf_counter_ns()
        self.answer: Future[Answer] = Future()

    def forget(self) -> None:
        """Give the answer up if the engine has not begun with it, and let go of the arrays then."""
        if self.answer.cancel():
            self.arrays = {}

    def begin(self) -> bool:
        """Whether anybody still waits for the answer; it can no longer be given up then."""
        return self.answer.set_running_or_notify_cancel()

    @property
    def shape(self) -> Shape:
        """The arrays' names, dtypes and sizes without the first, in which alone those of one call may differ."""
        return tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in self.arrays.items()))

    @property
    def joinable(self) -> bool:
        """Whether it has arrays, and each of them a batch."""
        return bool(self.arrays) and all(array.ndim for array in self.arrays.values())


class Call(Generic[Answer]):
    """The requests that the engine will answer in one call; those of a ``shape`` may become more."""

    def __init__(self, first: Asked[Answer], shape: Shape | None = None) -> None:
        self.asked, self.examples, self.shape = [first], first.examples, shape
        self.sent = False
        self.timer: asyncio.TimerHandle | None = None

    def add(self, asked: Asked[Answer]) -> None:
        """Take one more."""
        self.asked.append(asked)
        self.examples += asked.examples


class Gatherer(Generic[Answer]):
    """Puts requests together into calls, and hands each call over to ``send`` once.

    Requests come from the event loop; a call takes further ones until an engine's thread comes to it.
    """

    def __init__(self, batching: Batching, send: Callable[[Call[Answer]], None]) -> None:
        self._batching, self._send = batching, send
        self._open: dict[Shape, Call[Answer]] = {}
        self._lock = threading.Lock()
        self.most = batching.max_examples

    def add(self, asked: Asked[Answer]) -> None:
        """Put a request into the call that waits for its like, or into a new one."""
        shape = asked.shape
        ready: list[Call[Answer]] = []
        with self._lock:
            call = self._open.get(shape)
            if call is not None and call.examples + asked.examples > self.most:
                ready.append(self._open.pop(shape))
                call = None
            if call is None:
                call = Call(asked, shape)
                self._open[shape] = call
            else:
                call.add(asked)
            if call.examples >= self.most:
                ready.append(self._open.pop(shape))
        for one in ready:
            self._hand_over(one)
        if call.sent or call.timer is not None:
            return
        if self._batching.max_delay_s:
            loop = asyncio.get_running_loop()
            call.timer = loop.call_later(self._batching.max_delay_s, self._hand_over, call)
        else:
            self._hand_over(call)

    def taken(self, call: Call[Answer]) -> list[Asked[Answer]]:
        """The requests of a call whose turn it is, which takes no more from now on."""
        with self._lock:
            if call.shape is not None and self._open.get(call.shape) is call:
                del self._open[call.shape]
        return call.asked

    def shrink(self, failed: int) -> bool:
        """Gather half of ``failed`` examples at most, which were too many for a call; whether two are left."""
        with self._lock:
            self.most = min(self.most, failed // 2)
            return self.most > 1

    def flush(self) -> None:
        """Hand every call over at once."""
        with self._lock:
            waiting = list(self._open.values())
        for call in waiting:
            self._hand_over(call)

    def _hand_over(self, call: Call[Answer]) -> None:
        if call.timer is not None:
            call.timer.cancel()
        if not call.sent:
            call.sent = True
            self._send(call)
