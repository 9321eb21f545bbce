"""A stand-in for the runtime half of TensorRT's Python API, which runs on no CPU: doubles ``x`` where it is told to."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import numpy as np

from slipway.records import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 3)),),
)
LAYER = {
    "Name": "double",
    "LayerType": "gemm",
    "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}],
}


class Runtime:
    """The module: what a session takes from it."""

    __version__ = "11.4"

    class ILogger:
        """Base of a logger."""

    class IProfiler:
        """Base of a profiler."""

    class LayerInformationFormat:
        """How an inspector tells."""

        JSON = 1


class Engine:
    """A deserialized engine whose context takes 1 to ``most`` examples and answers the shape ``answers`` for ``y``."""

    def __init__(self, most: int = 4, answers: tuple[int, ...] | None = None, *, starts: bool = True) -> None:
        self.most = most
        self.answers = answers
        self.starts = starts
        self.batches: list[int] = []

    def create_execution_context(self) -> Context:
        return Context(self)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3), (1, 3), (self.most, 3)]

    def create_engine_inspector(self) -> Inspector:
        return Inspector()


class Inspector:
    """Tells of one layer."""

    def get_engine_information(self, told_as: int) -> str:
        return json.dumps({"Layers": [LAYER]})


class Context:
    """An execution context over plain memory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self.profiler: Any = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return name == "x" and 1 <= shape[0] <= self._engine.most

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._engine.answers or self._shape

    def execute_async_v3(self, stream: int) -> bool:
        self._engine.batches.append(self._shape[0])
        if self._engine.starts:
            x, y = (self._array(name) for name in ("x", "y"))
            np.multiply(x, 2, out=y)
        if self.profiler:
            self.profiler.report_layer_time("double", 0.25)
        return self._engine.starts

    def _array(self, name: str) -> np.ndarray:
        floats = ctypes.POINTER(ctypes.c_float)
        return np.ctypeslib.as_array(ctypes.cast(self._addresses[name], floats), self._shape)
