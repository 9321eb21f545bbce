"""A session of NVIDIA's runtimes, over a stand-in for the runtime and over host memory in place of a GPU's."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slipway.engines import nvidia_memory
from slipway.engines.nvidia_memory import CudaMemory, TorchMemory, gpu_memory
from slipway.engines.tensorrt_file import Label
from slipway.engines.tensorrt_session import TensorRtSession
from slipway.errors import BadInputError, InfrastructureError, UnsupportedError
from tests.unit.engines.tensorrt_stand_in import SIGNATURE, Engine, Runtime


def test_answers_are_the_callers_own() -> None:
    with _session(Engine()) as session:
        first = session.infer({"x": _rows(3)})
        kept = first["y"].copy()
        second = session.infer({"x": _rows(1) + 5})
    np.testing.assert_array_equal(first["y"], kept)
    np.testing.assert_array_equal(kept, 2 * _rows(3))
    np.testing.assert_array_equal(second["y"], 2 * (_rows(1) + 5))


def test_read_only_arrays_are_taken() -> None:
    x = _rows(2)
    x.flags.writeable = False
    with _session(Engine()) as session:
        np.testing.assert_array_equal(session.infer({"x": x})["y"], 2 * x)


def test_batch_beyond_the_largest_is_run_in_parts() -> None:
    engine = Engine(most=4)
    with _session(engine) as session:
        np.testing.assert_array_equal(session.infer({"x": _rows(10)})["y"], 2 * _rows(10))
    assert engine.batches == [4, 4, 2]


def test_size_outside_of_the_profile_is_refused_with_the_range() -> None:
    with (
        _session(Engine(most=2)) as session,
        pytest.raises(BadInputError, match=r"^the model takes x from \[1, 3\] to \[2, 3\], but was given \[3, 3\]; "),
    ):
        session.infer({"x": _rows(3)})


def test_size_that_depends_on_values_is_refused() -> None:
    with (
        _session(Engine(answers=(-1, 3))) as session,
        pytest.raises(UnsupportedError, match="the size of y depends on the values"),
    ):
        session.infer({"x": _rows(1)})


def test_call_that_the_gpu_does_not_take_is_an_error_of_the_host() -> None:
    with _session(Engine(starts=False)) as session, pytest.raises(InfrastructureError, match="did not take the call"):
        session.infer({"x": _rows(1)})


def test_times_and_precisions_are_told_by_the_runtime() -> None:
    with _session(Engine()) as session:
        assert session.executed_precision() == {"fp16": 1}
        assert session.times_us({"x": _rows(10)}) == {"double": 750.0}  # in three parts


@pytest.mark.parametrize("make", [lambda: TorchMemory("cpu"), lambda: CudaMemory(_HostCuda())])
def test_memory_gives_back_what_was_put_in_and_grows(make: Any) -> None:
    memory = make()
    for rows in (2, 50, 1):
        memory.upload("a", _rows(rows))
        memory.upload("b", np.array(rows, np.int64))
        answers = {"a": np.empty((rows, 3), np.float32), "b": np.empty((), np.int64)}
        memory.download(answers)
        np.testing.assert_array_equal(answers["a"], _rows(rows))
        assert answers["b"] == rows


def test_error_of_the_cuda_runtime_is_told() -> None:
    with pytest.raises(InfrastructureError, match=r"^the CUDA runtime answers 2; look at the GPU with nvidia-smi$"):
        CudaMemory(_HostCuda(room=100)).upload("a", _rows(50))


def test_cuda_python_is_named_where_nothing_gives_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(nvidia_memory.importlib, "import_module", missing)
    with pytest.raises(UnsupportedError, match="built without CUDA, and cuda-python is not installed"):
        gpu_memory()


def _session(engine: Engine) -> TensorRtSession:
    label = Label(engine="tensorrt", version="11.4", capabilities=("9.0",), signature=SIGNATURE, max_batch=4)
    return TensorRtSession(Runtime, (), engine, label, TorchMemory("cpu"))


def _rows(count: int) -> np.ndarray:
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


class _HostCuda:
    """cuda-python's runtime module over host memory, which has ``room`` for so many bytes."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815  # CUDA's name

    def __init__(self, room: int = 10_000) -> None:
        self._room = room
        self._held: dict[int, Any] = {}

    def cudaStreamCreate(self) -> tuple[int, int]:  # noqa: N802
        return 0, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        assert stream == 7
        return (0,)

    def cudaMalloc(self, nbytes: int) -> tuple[int, int]:  # noqa: N802
        if nbytes > self._room:
            return 2, 0
        buffer = np.empty(nbytes, np.uint8)
        self._held[buffer.ctypes.data] = buffer
        return 0, buffer.ctypes.data

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        del self._held[address]
        return (0,)

    def cudaMemcpyAsync(self, to: int, of: int, nbytes: int, kind: int, stream: int) -> tuple[int]:  # noqa: N802
        assert stream == 7
        assert (to if kind == 1 else of) in self._held
        ctypes.memmove(to, of, nbytes)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        return (0,)
