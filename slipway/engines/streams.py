"""One session that several callers ask at once, of any engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from slipway.engines.base import Arrays, Engine, RunOptions, Session
from slipway.records import TensorSpec


@runtime_checkable
class SharesWeights(Protocol):
    """An engine whose ``load`` opens a single session for all streams, with one copy of the weights."""

    shares_weights: ClassVar[Literal[True]]


def load_streams(runtime: Engine, path: Path, options: RunOptions) -> Session:
    """Open an engine file so that ``options.streams`` threads may call ``infer`` at once; further ones wait.

    An engine that knows no streams is opened once for each, at the price of as many copies of the weights.

    Raises:
        BadInputError, UnsupportedError: as the engine's own ``load``.
    """
    if options.streams == 1 or isinstance(runtime, SharesWeights):
        return runtime.load(path, options)
    alone = options.model_copy(update={"streams": 1})
    with ExitStack() as opened:
        sessions = [opened.enter_context(runtime.load(path, alone)) for _ in range(options.streams)]
        return _Sessions(sessions, opened.pop_all())


class _Sessions:
    """Sessions of the same file as one: a call takes one that is free, or waits for it."""

    def __init__(self, sessions: Sequence[Session], opened: ExitStack) -> None:
        self._first = sessions[0]
        self._opened = opened
        self._free: SimpleQueue[Session] = SimpleQueue()
        for session in sessions:
            self._free.put(session)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._first.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._first.outputs

    def infer(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        session = self._free.get()
        try:
            return session.infer(arrays)
        finally:
            self._free.put(session)

    def executed_precision(self) -> dict[str, int]:
        return self._first.executed_precision()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
