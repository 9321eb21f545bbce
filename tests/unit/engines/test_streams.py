"""One session for several callers, of an engine that can serve only one caller per session."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from slipway.engines.base import RunOptions
from slipway.engines.streams import load_streams
from slipway.errors import BadInputError


class OneCaller:
    """A session that notices a second caller; its answer holds the number of the session."""

    def __init__(self, number: int, together: threading.Barrier) -> None:
        self.number = number
        self.closed = False
        self.inputs = self.outputs = ()
        self._together = together
        self._busy = threading.Lock()

    def infer(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        assert self._busy.acquire(blocking=False), "two callers in one session"
        try:
            if arrays["x"].size == 0:
                raise BadInputError("no examples")
            self._together.wait(timeout=10)
            return {"y": arrays["x"] * 2}
        finally:
            self._busy.release()

    def executed_precision(self) -> dict[str, int]:
        return {"fp32": 1}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


class Runtime:
    """Opens ``OneCaller`` sessions, all but ``fails_at``, and remembers the options."""

    name: ClassVar[str] = "one caller"

    def __init__(self, at_once: int = 1, fails_at: int = 0) -> None:
        self.opened: list[OneCaller] = []
        self.options: list[RunOptions] = []
        self._together = threading.Barrier(at_once)
        self._fails_at = fails_at

    def load(self, path: Path, options: RunOptions) -> OneCaller:
        self.options.append(options)
        if len(self.options) == self._fails_at:
            raise BadInputError("no such file")
        self.opened.append(OneCaller(len(self.opened), self._together))
        return self.opened[-1]


class SharingRuntime(Runtime):
    """An engine whose own sessions take several callers."""

    shares_weights = True


FILE = Path("engine")


def load(runtime: Runtime, streams: int) -> Any:
    return load_streams(runtime, FILE, RunOptions(threads=2, streams=streams))  # type: ignore[arg-type]  # it only loads


def test_callers_at_once_have_sessions_of_their_own() -> None:
    """All meet inside ``infer``, which only three sessions allow; six callers take turns in them."""
    runtime = Runtime(at_once=3)
    inputs = [np.full((1, 4), number) for number in range(6)]
    with load(runtime, 3) as session, ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(lambda x: session.infer({"x": x})["y"], inputs))
        assert session.executed_precision() == {"fp32": 1}
        assert (session.inputs, session.outputs) == ((), ())
    np.testing.assert_array_equal(answers, [2 * x for x in inputs])
    assert runtime.options == [RunOptions(threads=2)] * 3
    assert all(one.closed for one in runtime.opened)


def test_one_stream_is_the_engines_own_session() -> None:
    runtime = Runtime()
    assert load(runtime, 1) is runtime.opened[0]


def test_an_engine_that_shares_its_weights_is_opened_once() -> None:
    runtime = SharingRuntime()
    assert load(runtime, 3) is runtime.opened[0]
    assert runtime.options == [RunOptions(threads=2, streams=3)]


def test_an_error_frees_the_session_for_the_next_call() -> None:
    with load(Runtime(), 2) as session:
        for _ in range(3):
            with pytest.raises(BadInputError, match="no examples"):
                session.infer({"x": np.empty(0)})
        assert session.infer({"x": np.ones(1)})["y"] == [2]


def test_a_failing_load_closes_those_that_were_open() -> None:
    runtime = Runtime(fails_at=3)
    with pytest.raises(BadInputError, match="no such file"):
        load(runtime, 3)
    assert [one.closed for one in runtime.opened] == [True, True]
