"""What every engine is: availability, build, load; and what a loaded engine does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from slipway.records import Form, Option, Profile, Record, Signature, TensorSpec

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.generic]]


class Availability(Record):
    """Whether an engine is available here; if not, why, and the extra that brings it.

    One that is ``available`` builds here. One that does not also run here (``runs``) builds for other hardware, and
    ``reason`` says which hardware its files want.
    """

    engine: str
    available: bool
    version: str | None
    reason: str | None
    extra: str | None
    runs: bool = True


class Settings(Record):
    """An engine's own settings, as ``targets.T.settings.ENGINE`` in params.yaml gives them; here: none."""


class BuildOptions(Record):
    """What a build may depend on beside the exported file.

    ``batch`` holds the batch sizes that will be asked for most, in the order of their weight; any other must be
    answered too, if more slowly. ``settings`` are the engine's own, which it validates. ``builds`` says how often the
    step builds, to tell how far builds differ; an engine builds once.
    """

    variant: str
    signature: Signature
    batch: tuple[int, ...] = (1,)
    settings: dict[str, Any] = Field(default_factory=dict)
    builds: int = 1


class RunOptions(Record):
    """How a session runs: ``streams`` callers ask it at once, each on ``threads`` threads."""

    threads: int = 1
    streams: int = 1


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
        """Outputs by name; arrays are C-contiguous, in the dtypes of ``inputs``, batch first.

        The answers are the caller's own: no later call changes them.
        """
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
    settings: ClassVar[type[Settings]]  # what may be set for it alone

    def availability(self) -> Availability:
        """Whether this engine can build and run here, told without importing the heavy runtime where possible."""
        ...

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Write the engine file ``out`` from ``source``; return the options that went into its bytes.

        Raises:
            UnsupportedError: this engine cannot execute the variant, with the reason.
        """
        ...

    def load(self, path: Path, options: RunOptions) -> Session:
        """Open an engine file.

        An engine may leave ``options.streams`` to `streams.load_streams`, which opens it once for each.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: it runs on other hardware than this host's.
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
