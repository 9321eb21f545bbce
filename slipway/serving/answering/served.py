"""One engine of the registry while it is served: its file, opened once its sha256 was checked, and what it answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slipway.engines import engine
from slipway.engines.base import RunOptions, Session
from slipway.engines.streams import load_streams
from slipway.records import Evidence, TensorSpec
from slipway.serving.answering.drift import watch_of
from slipway.serving.answering.engine_file import require_proven, threads_of
from slipway.serving.answering.local_engine import Origin
from slipway.serving.http.inference_json import Array

WARM_UP_CALLS = 3
UNKNOWN = Origin()


@dataclass
class Counted:
    """How often, and for how many nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Count one more."""
        self.count += 1
        self.ns += ns

    def told(self) -> dict[str, int]:
        """As the protocol's statistics write it."""
        return {"count": self.count, "ns": self.ns}


@dataclass
class Statistics:
    """What became of the requests for one model since it was opened, counted from any thread."""

    success: Counted = field(default_factory=Counted)
    fail: Counted = field(default_factory=Counted)
    queue: Counted = field(default_factory=Counted)
    infer: Counted = field(default_factory=Counted)
    batches: dict[int, Counted] = field(default_factory=dict)
    examples: int = 0
    last_ms: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ran(self, examples: int, queued_ns: int, infer_ns: int) -> None:
        """Count a call of the engine that has just ended."""
        with self._lock:
            self.queue.add(queued_ns)
            self.infer.add(infer_ns)
            self.batches.setdefault(examples, Counted()).add(infer_ns)
            self.examples += examples
            self.last_ms = int(time.time() * 1000)

    def answered(self, ns: int) -> None:
        """Count a request that was answered."""
        with self._lock:
            self.success.add(ns)

    def failed(self, ns: int) -> None:
        """Count a request that was not answered."""
        with self._lock:
            self.fail.add(ns)


class ServedModel:
    """An engine file that was proven, opened with the threads and streams that were found best for it.

    ``streams`` callers may ask it at once. ``cold`` tells why the first request finds it cold, or is None. ``opened``
    is when, in seconds since 1970.
    """

    def __init__(self, name: str, version: str, evidence: Evidence, path: Path, origin: Origin = UNKNOWN) -> None:
        """Open the engine file ``path``, and answer zeros where it can, so that the first request finds it warm.

        Raises:
            TamperedError: the file's sha256 is not the one in its evidence.
            UnsupportedError: its engine is not available here.
            InfrastructureError: another version of Slipway wrote the summary of its inputs.
        """
        require_proven(path, evidence, "register the model again")
        self.name, self.version, self.evidence, self.origin = name, version, evidence, origin
        self.digest = str(evidence.digest)
        self.watch = watch_of(origin.companions)
        self.opened = time.time()
        self.statistics = Statistics()
        options = run_options(evidence)
        self.streams = options.streams
        self._session: Session = load_streams(engine(evidence.spec.engine), path, options)
        self.cold = self._warm_up()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs by name, as the engine file tells them."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs by name, as the engine file tells them."""
        return self._session.outputs

    def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; beyond ``streams`` calls at once the others wait.

        Raises:
            BadInputError: an array is missing, unknown, or has another dtype, rank or fixed size.
        """
        ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return self._session.infer(ordered)

    def close(self) -> None:
        """Let go of the runtime's memory."""
        self._session.__exit__(None, None, None)

    def told(self) -> dict[str, Any]:
        """The model's metadata as the protocol writes them."""
        return {"name": self.name, "versions": [self.version], "platform": f"slipway_{self.evidence.spec.engine}"}

    def _warm_up(self) -> str | None:
        """Answer zeros on every stream; else tell why not.

        Only the first dimension may be free, the batch: no file tells the least size that a model takes in another
        (a kernel's width, a TensorRT profile's minimum), and a size at which it can run would warm no other one.
        """
        for spec in self.inputs:
            if -1 in spec.shape[1:]:
                return f"{spec.name} has free dimensions beside the batch: {list(spec.shape)}"
        zeros = {
            spec.name: np.zeros([1 if size == -1 else size for size in spec.shape], spec.dtype) for spec in self.inputs
        }
        try:
            for _ in range(WARM_UP_CALLS * self.streams):
                self._session.infer(zeros)
        except Exception as error:  # noqa: BLE001 - a proven engine may still refuse zeros, or a batch of one, with anything
            return f"it did not answer a batch of zeros: {type(error).__name__}"
        return None


def run_options(evidence: Evidence) -> RunOptions:
    """The threads and streams of the best rate within the target's demand; of the best latency if one stream has it."""
    best = evidence.timing.best_throughput if evidence.timing else None
    if best is not None and best.streams > 1:
        return RunOptions(threads=best.threads, streams=best.streams)
    return RunOptions(threads=threads_of(evidence))
