"""What every engine is: availability, build, load; and what a loaded engine does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway.records import Form, Option, Profile, Record, Signature, TensorSpec

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.generic]]


class Availability(Record):
    """Whether an engine can run here; if not, why, and the extra that brings it."""

    engine: str
    available: bool
    version: str | None
    reason: str | None
    extra: str | None


class BuildOptions(Record):
    """What a build may depend on beside the exported file: the variant's name and the model's signature."""

    variant: str
    signature: Signature


class RunOptions(Record):
    """How a session runs."""

    threads: int = 1


class Session(Protocol):
    """A loaded engine file, used as a context manager."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs by name, as the file itself tells them."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs by name, as the file itself tells them."""
        ...

    def infer(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Outputs by name; arrays are C-contiguous, in the dtypes of ``inputs``, batch first."""
        ...

    def executed_precision(self) -> dict[str, int]:
        """How many compute layers ran in each precision, where the runtime can tell; else empty."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """A runtime that executes a variant."""

    name: ClassVar[str]
    form: ClassVar[Form]
    suffix: ClassVar[str]
    refused: ClassVar[Mapping[str, str]]  # variants that this engine never executes, each with the reason

    def availability(self) -> Availability:
        """Whether this engine can run here, told without importing the heavy runtime where possible."""
        ...

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Write the engine file ``out`` from ``source``; return the options that went into its bytes.

        Raises:
            UnsupportedError: this engine cannot execute the variant, with the reason.
        """
        ...

    def load(self, path: Path, options: RunOptions) -> Session:
        """Open an engine file.

        Raises:
            BadInputError: the file is not one of this engine's.
        """
        ...

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What an engine file really executes, told by its runtime's own profiler over ``calls`` calls.

        A session of its own is opened, with profiling on, and warmed up. Where reading a profile takes longer than the
        calls, fewer are made, which the profile tells. ``trace`` is written as a Chrome trace of the last few calls.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: the runtime cannot tell.
        """
        ...
