"""A loaded library of TVM, on the threads asked for."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway.decisions.precision import count_precisions
from slipway.engines.base import Arrays
from slipway.engines.profiling import batch_of
from slipway.engines.session import CheckedSession
from slipway.engines.tvm_library import ANY_BATCH, Label
from slipway.records import Layer

ALIGNMENT = 64  # bytes, which compiled kernels take for granted
_SHARE_ALL_CORES = -3
_pool = threading.local()


class TvmSession(CheckedSession):
    """A session of TVM's virtual machine on the CPU.

    TVM keeps a pool of threads for each thread that calls it. A pool never grows: where the calling thread has a
    smaller one already, another thread makes the calls.
    """

    def __init__(self, machine: Any, label: Label, threads: int) -> None:
        super().__init__(label.signature)
        self.label = label
        self._machine = machine
        self._threads = threads
        self._functions = {name: machine[name] for name in label.kernels}
        self._calling = threading.Lock()  # the machine has one set of registers

    def executed_precision(self) -> dict[str, int]:
        """Kernels of the library that multiply and accumulate, counted by precision."""
        return count_precisions(self.label.kernels[ANY_BATCH])

    def timed(self, arrays: Arrays) -> list[tuple[Layer, int, int]]:
        """Each kernel that a call with ``arrays`` executes, in order, with its start and end in ns."""
        kernels = iter(self.label.kernels[self._function(arrays)])
        names = {kernel.name.partition(" ")[0] for kernel in self.label.kernels[self._function(arrays)]}
        called: list[str] = []
        times_ns: list[int] = []

        def note(_function: Any, name: Any, before: Any, *_: Any) -> int:
            if str(name) in names:  # not one of the machine's own, such as for shapes
                if before:
                    called.append(str(name))
                times_ns.append(time.perf_counter_ns())
            return 0  # go on with the call

        self._machine["set_instrument"](note)
        self.infer(arrays)
        # A reshape is a kernel to the compiler, and none to the machine.
        executed = [next(one for one in kernels if one.name.partition(" ")[0] == name) for name in called]
        return list(zip(executed, times_ns[::2], times_ns[1::2], strict=True))

    def _function(self, arrays: Arrays) -> str:
        return self.label.batches.get(batch_of(arrays), ANY_BATCH)

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        call = self._functions[self._function(arrays)]
        ordered = [arrays[spec.name] for spec in self.inputs]
        with self._calling:
            if _use_threads(self._threads):
                answers = _answers(call, ordered)
            else:
                answers = _caller(self._threads).submit(_on_own_thread, self._threads, call, ordered).result()
        return dict(zip((spec.name for spec in self.outputs), answers, strict=True))

    def _close(self) -> None:
        self._functions.clear()
        self._machine = None


@functools.cache
def _caller(threads: int) -> ThreadPoolExecutor:
    """The one thread of this process whose pool has ``threads``; kept, since a pool's threads outlive its caller."""
    return ThreadPoolExecutor(1, f"tvm-{threads}")


def _on_own_thread(
    threads: int, call: Callable[..., Any], arrays: Sequence[npt.NDArray[np.generic]]
) -> list[npt.NDArray[np.generic]]:
    _use_threads(threads)
    return _answers(call, arrays)


def _answers(call: Callable[..., Any], arrays: Sequence[npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
    import tvm_ffi

    answers = call(*[tvm_ffi.from_dlpack(_aligned(array)) for array in arrays])
    return [np.from_dlpack(answer) for answer in answers]


def _aligned(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A copy at an address that kernels can load vectors from; an answer may be a view of it."""
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


def _use_threads(threads: int) -> bool:
    """Let calls from this thread run on ``threads`` threads; False where its pool is smaller."""
    import tvm_ffi

    size = getattr(_pool, "size", threads)
    if threads > size:
        return False
    if getattr(_pool, "used", None) != threads:
        names = [str(number) for number in range(threads)]  # as many as threads; bound to none (TVM_BIND_THREADS)
        tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, threads, names)
        _pool.size, _pool.used = size, threads
    return True
