"""One call of the engine for several requests: their arrays joined, its answer split, and whether it bears that."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from slipway.records import TensorSpec
from slipway.serving.http.inference_json import Array

# How far a neighbour may move an answer: as a share of how far the input itself moves it (no more than an integer
# engine's rounding), and of the answer's own size (no more than bf16's).
OF_ITS_SPREAD, OF_ITS_SIZE = 0.25, 0.005
LOUD = 1000.0
SMALL_INTEGERS = 8
FAILED_TRIALS = 10
NO_BATCH = "its outputs do not have the batch as their first dimension"


class Answering(Protocol):
    """What a joint call needs of a served model."""

    name: str

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs by name."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs by name."""
        ...

    def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        ...


class Joining:
    """Whether an engine may answer several requests in one call, which is tried out before the first such call.

    ``refusal`` tells why not, or is None; it is written to stderr once.
    """

    def __init__(self, model: Answering) -> None:
        self._model = model
        self._trying = threading.Lock()
        self._tried = False
        self._failed_trials = 0
        self.refusal: str | None = None
        if (fixed := fixed_batch(model.inputs, model.outputs)) is not None:
            self.refuse(fixed)

    def allowed(self, arrays: Mapping[str, Array]) -> bool:
        """Whether requests of these arrays' shape may be joined; False also while that cannot be told yet."""
        if not self._tried and fits(self._model.inputs, arrays) and self._trying.acquire(blocking=False):
            try:
                self._try_out(arrays)
            finally:
                self._trying.release()
        return self._tried and self.refusal is None

    def refuse(self, reason: str) -> None:
        """Join no more."""
        if self.refusal is not None:
            return
        self._tried, self.refusal = True, reason
        with suppress(OSError, ValueError):  # a server without a stderr answers all the same
            sys.stderr.write(f"{self._model.name}: each request is answered by a call of its own: {reason}\n")

    def _try_out(self, arrays: Mapping[str, Array]) -> None:
        if self._tried:  # by the thread that had the lock before
            return
        try:
            reason = influence(self._model.infer, arrays)
        except Exception as error:  # noqa: BLE001 - it may be for the sizes that a client chose, or for ever
            self._failed_trials += 1
            if self._failed_trials == FAILED_TRIALS:
                self.refuse(f"it does not answer the examples of a trial: {type(error).__name__}")
            return
        if reason is not None:
            self.refuse(reason)
        self._tried = True


def fits(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> bool:
    """Whether a model with these inputs takes these arrays, and they hold anything: others prove nothing of it."""
    return set(arrays) == {spec.name for spec in specs} and all(
        array.size
        and array.dtype.name == spec.dtype
        and array.ndim == len(spec.shape)
        and all(told in {-1, size} for told, size in zip(spec.shape, array.shape, strict=True))
        for spec in specs
        for array in [arrays[spec.name]]
    )


def joined(requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of requests of the same shape, one behind the other."""
    return {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}


def split(outputs: Mapping[str, Array], sizes: Sequence[int]) -> list[dict[str, Array]] | None:
    """Each request's part of the outputs; None if an output does not have the batch first."""
    whole = sum(sizes)
    if any(not array.ndim or array.shape[0] != whole for array in outputs.values()):
        return None
    ends = np.cumsum(sizes).tolist()
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def fixed_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """Which tensor's first dimension is no free batch, in words; None if all of them have one."""
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if not spec.shape or spec.shape[0] != -1:
                return f"{kind} {spec.name} has the shape {list(spec.shape)}, whose first size is no free batch"
    return None if inputs and outputs else "the engine tells no inputs or no outputs"


def influence(infer: Callable[[Mapping[str, Array]], dict[str, Array]], like: Mapping[str, Array]) -> str | None:
    """Why an example must not share a call with a stranger's, tried on arrays of the same shape; None if it may.

    A quiet example is asked alone, and behind one a thousand times as loud. An engine that takes one scale from the
    whole batch (dynamic quantization) or normalises over it answers the quiet one like zeros then: the distance from
    its answer to that of zeros is the measure. Whatever the engine raises for one example alone is raised.
    """
    random = np.random.default_rng(0)
    quiet = {name: _quiet(random, array) for name, array in like.items()}
    loud = {name: _loud(random, array) for name, array in like.items()}
    alone = infer(quiet)
    zeros = infer({name: np.zeros_like(array) for name, array in quiet.items()})
    try:
        together = infer(joined([loud, quiet]))
    except Exception as error:  # noqa: BLE001 - each engine has errors of its own
        return f"it did not answer two examples together: {type(error).__name__}"
    parts = split(together, [1, 1])
    if parts is None or any(array.shape != parts[1][name].shape for name, array in alone.items()):
        return NO_BATCH
    for name, array in alone.items():
        if not _close(array, parts[1][name], zeros[name]):
            return f"an example's output {name} depends on the other examples of its batch"
    return None


def _close(alone: Array, together: Array, zeros: Array) -> bool:
    if alone.dtype.kind != "f":
        return bool((alone != together).mean() <= OF_ITS_SIZE) if alone.size else True
    here, there, none = (array.astype(np.float64) for array in (alone, together, zeros))
    if not here.size:
        return True
    if not (np.isfinite(here).all() and np.isfinite(there).all()):
        return False  # nothing can be told of it
    spread = np.abs(here - none).max() if np.isfinite(none).all() else 0.0
    return bool(np.abs(here - there).max() <= OF_ITS_SPREAD * spread + OF_ITS_SIZE * np.abs(here).max())


def _quiet(random: np.random.Generator, like: Array) -> Array:
    """One example such as any model takes: numbers from 0 to 1, or integers that every table of embeddings has."""
    shape, dtype = (1, *like.shape[1:]), like.dtype
    if dtype.kind == "f":
        return random.random(shape, dtype=np.float32).astype(dtype)
    return random.integers(0, SMALL_INTEGERS if _bytes(dtype) else 2, shape).astype(dtype)


def _loud(random: np.random.Generator, like: Array) -> Array:
    shape = (1, *like.shape[1:])
    dtype: np.dtype[Any] = like.dtype
    if dtype.kind == "f":
        return (LOUD * random.random(shape, dtype=np.float32)).astype(dtype)
    if _bytes(dtype):
        return random.integers(np.iinfo(dtype).max // 2, np.iinfo(dtype).max, shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def _bytes(dtype: np.dtype[Any]) -> bool:
    """Bytes are the pixels of images, wider integers may be the rows of a table."""
    return dtype.kind in "iu" and dtype.itemsize == 1
