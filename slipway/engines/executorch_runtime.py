"""ExecuTorch's runtime in this process: its kernels, its one pool of threads, and a session on them."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway.engines.base import Arrays
from slipway.engines.executorch_file import Label
from slipway.engines.session import CheckedSession
from slipway.errors import BadInputError, UnsupportedError

_METHOD = "forward"
_resets = 0  # of the process's pool of threads


def runtime() -> Any:
    """The runtime's bindings, with the kernels that quantize outside XNNPACK.

    ``executorch.runtime`` wraps the same bindings, but imports the whole compiler, which takes seconds, warns and logs.
    """
    import executorch
    import torch  # noqa: F401 - the bindings are linked against its libraries
    from executorch.extension.pybindings import _C

    library = Path(next(iter(executorch.__path__))) / "lib" / "libexecutorch_kernels_quantized.so"
    ctypes.CDLL(str(library))  # registers its kernels once, however often it is opened
    return _C


def operator_names() -> frozenset[str]:
    """The operators that have a kernel outside XNNPACK."""
    return frozenset(runtime()._get_operator_names())


def package_path() -> Path:
    """Where executorch is installed."""
    import executorch

    return Path(next(iter(executorch.__path__)))


def use_threads(threads: int) -> int:
    """Give the process's pool this many threads; return how often it has been made anew.

    XNNPACK's layers keep a pointer to the pool that they were loaded with: once it is made anew, no method that was
    loaded before may run again.
    """
    global _resets  # noqa: PLW0603 - the pool is the process's as well
    bindings = runtime()
    if not _resets or bindings._threadpool_get_thread_count() != threads:
        with quiet_stderr():
            bindings._unsafe_reset_threadpool(threads)
        _resets += 1
    return _resets


class ExecuTorchSession(CheckedSession):
    """Runs a program on ``threads`` threads; a batch above the one that memory was planned for goes in parts."""

    def __init__(self, engine: str, program: bytes, label: Label, threads: int, *, traced: bool = False) -> None:
        super().__init__(label.signature)
        self._engine, self._content, self._label, self._threads = engine, program, label, threads
        self._input_names = tuple(spec.name for spec in self.inputs)
        self._resets = use_threads(threads)
        self._program = self._open(traced=traced)
        self._method = self._load_method()
        planned = self._program.method_meta(_METHOD).input_tensor_meta(0).sizes()
        self.largest_batch: int | None = planned[0] if self.inputs[0].shape[:1] == (-1,) else None

    def executed_precision(self) -> dict[str, int]:
        """Operators that multiply and accumulate by precision, as the runtime tells of a call with zeros.

        None of them where the program does not answer such a call, whose dynamic sizes are all 1: that tells nothing of
        the sizes that it does answer.
        """
        from slipway.decisions.precision import count_precisions
        from slipway.engines.executorch_profile import traced_calls

        zeros = {
            spec.name: np.zeros([1 if size < 0 else size for size in spec.shape], spec.dtype) for spec in self.inputs
        }
        again = (self._engine, self._content, self._label, self._threads)
        try:
            with quiet_stderr(), ExecuTorchSession(*again, traced=True) as session:
                session.infer(zeros)
                (call,) = traced_calls(session, self._label.portable, blocks=1)
        except Exception:  # noqa: BLE001 - whatever the runtime raises, it has told no precision
            return {}
        return count_precisions(layer for layer, _ in call)

    def write_trace(self, path: Path) -> None:
        """Write what the runtime has traced since the program was loaded, as ETDump."""
        self._program.write_etdump_result_to_file(str(path), "")

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        if self._resets != (resets := use_threads(self._threads)):
            self._method, self._resets = self._load_method(), resets
        count = len(arrays[self._input_names[0]]) if self.largest_batch else 0
        if not self.largest_batch or count <= self.largest_batch:
            return self._call(arrays)
        starts = range(0, count, self.largest_batch)
        parts = [self._call(self._part(arrays, start, self.largest_batch)) for start in starts]
        if any(spec.shape[:1] != (-1,) for spec in self.outputs):
            raise BadInputError(
                f"engine {self._engine} answers {self.largest_batch} examples at once, and outputs that are not one "
                f"per example cannot be joined; give at most {self.largest_batch}"
            )
        return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs}

    def _part(self, arrays: Arrays, start: int, count: int) -> Arrays:
        batched = {spec.name for spec in self.inputs if spec.shape[:1] == (-1,)}
        return {name: array[start : start + count] if name in batched else array for name, array in arrays.items()}

    def _call(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        import torch

        answers = self._method([torch.from_numpy(_writeable(arrays[name])) for name in self._input_names])
        return {spec.name: answer.numpy() for spec, answer in zip(self.outputs, answers, strict=True)}

    def _open(self, *, traced: bool) -> Any:
        bindings = runtime()
        checked = bindings.Verification.InternalConsistency
        with quiet_stderr() as told:
            try:
                return bindings._load_program_from_buffer(
                    self._content, enable_etdump=traced, program_verification=checked
                )
            except RuntimeError as error:
                raise self._refusal_to_load(error, told()) from error

    def _load_method(self) -> Any:
        with quiet_stderr() as told:
            try:
                return self._program.load_method(_METHOD)
            except RuntimeError as error:
                raise self._refusal_to_load(error, told()) from error

    def _refusal_to_load(self, error: RuntimeError, told: str) -> UnsupportedError:
        reason = told.strip().splitlines()[-1] if told.strip() else str(error)
        return UnsupportedError(f"engine {self._engine} cannot load this model: {reason}; build the candidate again")

    def _close(self) -> None:
        del self._method
        del self._program


@contextmanager
def quiet_stderr() -> Iterator[Any]:
    """Keep what the runtime logs, which has no level to set, from stderr; what is given tells it."""
    with tempfile.TemporaryFile() as log:

        def told() -> str:
            log.seek(0)
            return log.read().decode(errors="replace")

        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield told
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _writeable(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    # a tensor cannot be read-only: sharing such memory is undefined behaviour, and PyTorch warns of it
    return array if array.flags.writeable else array.copy()
