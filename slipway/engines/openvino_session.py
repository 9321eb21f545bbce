"""A loaded OpenVINO model as a session: compiled for one batch size, and once more when another is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway.decisions.precision import count_precisions
from slipway.engines.base import Arrays
from slipway.engines.openvino_profile import executed_us, graph_layers
from slipway.engines.session import CheckedSession
from slipway.records import Layer, Signature

if TYPE_CHECKING:
    import openvino

Compile: TypeAlias = "Callable[[int | None], openvino.CompiledModel]"


class OpenVinoSession(CheckedSession):
    """Answers ``batch`` examples with a model compiled for as many, any other number with one compiled for any.

    ``compiled(batch)`` compiles for a batch size, or for any (None). The second model is compiled when it is first
    asked for; ``batch`` None means that there is only that one. Each has an infer request for each of ``streams``.
    """

    def __init__(self, compiled: Compile, signature: Signature, batch: int | None, streams: int) -> None:
        super().__init__(signature)  # the model's: compiled, a port also bears the names of what was fused into it
        self._compile = compiled
        self._streams = streams
        self._batch = batch
        self._first = _Requests(compiled(batch), streams)
        self._any = self._first if batch is None else None
        self._compiling = threading.Lock()
        self._batched = tuple(spec.name for spec in self.inputs if spec.shape and spec.shape[0] == -1)
        self._output_names = tuple(spec.name for spec in self.outputs)

    def executed_precision(self) -> dict[str, int]:
        """Layers of the compiled graph that multiply and accumulate, counted by the precision they run in."""
        return count_precisions(graph_layers(self._first.compiled))

    def layers(self, arrays: Arrays) -> tuple[Layer, ...]:
        """Operations of the compiled graph that answers ``arrays``, in the order of their execution, without times."""
        return graph_layers(self._requests(arrays).compiled)

    def counters(self, arrays: Arrays) -> dict[str, float]:
        """One call's time in us of every operation that it executed, from a session that counts."""
        return self._requests(arrays).counters(arrays)

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        return dict(zip(self._output_names, self._requests(arrays).answers(arrays), strict=True))

    def _requests(self, arrays: Arrays) -> _Requests:
        if self._batch is not None and all(len(arrays[name]) == self._batch for name in self._batched):
            return self._first
        return self._any or self._for_any()

    def _for_any(self) -> _Requests:
        with self._compiling:
            if self._any is None:  # no other caller was first
                self._any = _Requests(self._compile(None), self._streams)
            return self._any

    def _close(self) -> None:
        del self._first, self._any, self._compile


class _Requests:
    """A compiled model and its infer requests; a call takes one that is free, or waits for it."""

    def __init__(self, compiled: openvino.CompiledModel, streams: int) -> None:
        self.compiled = compiled
        self._free: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._free.put(compiled.create_infer_request())

    def answers(self, arrays: Arrays) -> tuple[npt.NDArray[np.generic], ...]:
        request = self._free.get()
        try:
            outputs: tuple[npt.NDArray[np.generic], ...] = request.infer(dict(arrays), share_inputs=True).to_tuple()
            return outputs
        finally:
            self._free.put(request)

    def counters(self, arrays: Arrays) -> dict[str, float]:
        request = self._free.get()
        try:
            request.infer(dict(arrays), share_inputs=True)
            return executed_us(request)
        finally:
            self._free.put(request)
