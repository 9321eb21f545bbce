"""An engine that is served without a file: its answers are known for each example, its calls are recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np

from slipway.records import TensorSpec
from slipway.serving.answering.served import ServedModel, Statistics
from slipway.serving.http.inference_json import Array

POISON = 13.0  # an example of which makes a call fail


def tripled(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Three times each input, and its sum per example."""
    if any((array == POISON).any() for array in arrays.values()):
        raise ValueError("poison")
    whole = {name: np.asarray(3 * array) for name, array in sorted(arrays.items())}
    return whole | {f"sum_{name}": array.reshape(len(array), -1).sum(1) for name, array in whole.items()}


class BatchEngine:
    """Answers by ``answer`` once ``go_on`` is set, which it is unless told; ``calls`` are the sizes of its calls."""

    name, version, digest = "fake", "1", "d" * 64

    def __init__(
        self,
        answer: Callable[[Mapping[str, Array]], dict[str, Array]] = tripled,
        streams: int = 1,
        batch: int = -1,
        inputs: tuple[str, ...] = ("x",),
    ) -> None:
        self._answer, self.streams = answer, streams
        self.inputs = tuple(TensorSpec(name=name, dtype="float32", shape=(batch, -1)) for name in inputs)
        self.outputs = (TensorSpec(name="x", dtype="float32", shape=(batch, -1)),)
        self.statistics = Statistics()
        self.calls: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.closed = False

    def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The answers, each a new array."""
        self.calls.append(max(len(array) for array in arrays.values()))
        self.begun.set()
        assert self.go_on.wait(30)
        return self._answer(arrays)

    def close(self) -> None:
        """Nobody asks it any more."""
        self.closed = True

    @property
    def served(self) -> ServedModel:
        """Where its type is asked for."""
        return cast("ServedModel", self)
