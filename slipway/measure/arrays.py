"""Named arrays: what an engine is called with and answers, and their npz form."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slipway.errors import BadInputError

Array: TypeAlias = NDArray[np.generic]
Arrays: TypeAlias = Mapping[str, Array]
Infer: TypeAlias = Callable[[Arrays], Arrays]


def write_arrays(file: Path | IO[bytes], arrays: Arrays) -> None:
    """Write ``arrays`` as npz without pickle; equal arrays in equal order give equal bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, where numpy.savez takes whatever zipfile sets
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)


def read_arrays(file: Path | IO[bytes]) -> dict[str, Array]:
    """Read what `write_arrays` wrote, in the order it was written.

    Raises:
        BadInputError: the file is missing, is not npz, or holds pickled objects.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BadInputError(
            f"cannot read arrays from {file}: {error}; give an npz file without pickled objects"
        ) from error
