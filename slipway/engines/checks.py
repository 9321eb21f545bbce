"""What every engine refuses, in the same words: runtimes, files and names."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from slipway.engines.base import Availability
from slipway.errors import BadInputError
from slipway.records import TensorSpec


def installed(engine: str, distribution: str, extra: str | None) -> Availability:
    """Whether the ``distribution`` that brings an engine's runtime is installed, without importing it."""
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        reason = f"{distribution} is not installed"
        return Availability(engine=engine, available=False, version=None, reason=reason, extra=extra)
    return Availability(engine=engine, available=True, version=version, reason=None, extra=extra)


def compiler_command(*names: str) -> str:
    """The C++ compiler's command: CXX unless it is blank, else the first of ``names`` on the PATH, or of all."""
    return os.environ.get("CXX", "").strip() or next(filter(shutil.which, names), names[0])


def with_compiler(found: Availability, command: str, program: str, does: str) -> Availability:
    """``found``, unless the ``program`` of the compiler's ``command``, by which the engine ``does``, is not there."""
    if not found.available or shutil.which(program):
        return found
    reason = f"it {does} with {command}, which is not on the PATH: apt-get install g++, or set CXX to a compiler"
    return found.model_copy(update={"available": False, "reason": reason})


def bad_file(engine: str, path: Path, wanted: str) -> BadInputError:
    """The error for a file that is not the ``wanted`` one: missing, truncated, or of another kind."""
    found = "something else, or a damaged file" if path.exists() else "no such file"
    return BadInputError(f"engine {engine} wants {wanted} at {path}, found {found}; build the candidate again")


def require_names(source: Path, kind: str, found: Iterable[str], specs: tuple[TensorSpec, ...]) -> None:
    """Check that a file's inputs or outputs (``kind``) are named as the signature's, in its order.

    Raises:
        BadInputError: they are not.
    """
    names, wanted = list(found), [spec.name for spec in specs]
    if names != wanted:
        raise BadInputError(
            f"the model's signature has {kind} {', '.join(wanted)}, {source.name} has {', '.join(names)}; "
            "export the model again with the signature's names"
        )


def first_installed(engine: str, distributions: Sequence[str]) -> Availability:
    """As `installed`, of whichever of these packages is; each brings the engine, and so does its own extra."""
    every = [installed(engine, distribution, engine) for distribution in distributions]
    return next((one for one in every if one.available), every[0])


def describe(specs: tuple[TensorSpec, ...]) -> str:
    """A signature's half as people write it: ``image float32[-1, 3, 32, 32]``."""
    return ", ".join(f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in specs)
