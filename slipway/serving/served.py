"""One engine of the registry while it is served: its file, opened once its sha256 was checked, and what it answered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slipway.decisions.staleness import require_fresh
from slipway.engines import engine
from slipway.engines.base import RunOptions, Session
from slipway.errors import TamperedError
from slipway.records import Evidence, Hardware, TensorSpec
from slipway.serving.inference_json import Array
from slipway.stores.objects import digest_of
from slipway.stores.registry import Registry, version_with

WARM_UP_CALLS = 3


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
    """What became of the requests for one model since it was opened."""

    success: Counted = field(default_factory=Counted)
    fail: Counted = field(default_factory=Counted)
    queue: Counted = field(default_factory=Counted)
    infer: Counted = field(default_factory=Counted)
    examples: int = 0
    last_ms: int = 0


class ServedModel:
    """An engine file that was proven, opened with the threads that were found best for it."""

    def __init__(self, name: str, version: str, evidence: Evidence, path: Path) -> None:
        """Open the engine file ``path`` and answer a few examples of zeros, so that the first request finds it warm.

        Raises:
            TamperedError: the file's sha256 is not the one in its evidence.
            UnsupportedError: its engine is not available here.
        """
        if digest_of(path) != evidence.digest:
            raise TamperedError(f"{path} is not the engine file of its evidence; register the model again")
        self.name, self.version, self.evidence = name, version, evidence
        self.digest = str(evidence.digest)
        self.opened = time.time()
        self.statistics = Statistics()
        threads = int(evidence.options.get("threads", 1))
        self._session: Session = engine(evidence.spec.engine).load(path, RunOptions(threads=threads))
        self._warm_up()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs by name, as the engine file tells them."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs by name, as the engine file tells them."""
        return self._session.outputs

    def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; one call at a time.

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

    def _warm_up(self) -> None:
        zeros = {
            spec.name: np.zeros([1 if size == -1 else size for size in spec.shape], spec.dtype) for spec in self.inputs
        }
        for _ in range(WARM_UP_CALLS):
            self._session.infer(zeros)


def open_registered(registry: Registry, name: str, alias: str, here: Hardware, folder: Path) -> ServedModel:
    """The engine of the registered model ``name`` that bears ``alias``, its file copied into ``folder``, and opened.

    Raises:
        BadInputError: no version bears the alias, or its engine is stale on the host ``here``.
        TamperedError: the engine file's bytes differ from the evidence's digest.
        UnsupportedError: its engine is not available here.
    """
    found = registry.version(name, version_with(registry, name, alias))
    require_fresh(found.evidence, here)
    return ServedModel(name, found.version, found.evidence, registry.engine_path(name, found.version, folder))
