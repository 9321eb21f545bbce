"""Named arrays: what an engine is called with and answers, and their npz form, whole or row by row."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slipway.errors import BadInputError, RejectedError

Array: TypeAlias = NDArray[np.generic]
Arrays: TypeAlias = Mapping[str, Array]
Infer: TypeAlias = Callable[[Arrays], Arrays]
_Alike: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

CHUNK_BYTES = 4_000_000
_NPY = ".npy"


def write_arrays(file: Path | IO[bytes], arrays: Arrays) -> None:
    """Write ``arrays`` as npz without pickle; equal arrays in equal order give equal bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with _new_member(archive, name) as stream:
                np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)


def read_arrays(file: Path | IO[bytes]) -> dict[str, Array]:
    """Read what `write_arrays` wrote, in the order it was written.

    Raises:
        BadInputError: the file is missing, is not npz, or holds pickled objects.
    """
    with _readable(file), np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


class RowWriter:
    """Writes arrays to npz some rows at a time, so that they never lie in memory whole; a context manager.

    The bytes are those of `write_arrays`, however the rows were cut. An error within it leaves no file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = ExitStack()
        self._scratch = Path(
            self._open.enter_context(tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-"))
        )
        self._streams: dict[str, IO[bytes]] = {}
        self._alike: _Alike = {}
        self.rows = 0

    def add(self, arrays: Arrays) -> None:
        """Append as many rows to every array.

        Raises:
            RejectedError: names, dtypes or shapes per row differ from those of the first time.
        """
        alike = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
        if not self._streams:
            self._alike = alike
            for index, name in enumerate(arrays):
                self._streams[name] = self._open.enter_context((self._scratch / str(index)).open("w+b"))
        if alike != self._alike:
            raise RejectedError(f"arrays change between batches, from {_told(self._alike)} to {_told(alike)} per row")
        (rows,) = {len(array) for array in arrays.values()}
        for name, array in arrays.items():
            self._streams[name].write(np.ascontiguousarray(array).data)
        self.rows += rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if error is None:
                self._assemble()

    def _assemble(self) -> None:
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, (dtype, shape) in self._alike.items():
                descr = np.lib.format.dtype_to_descr(dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (self.rows, *shape)}
                with _new_member(archive, name) as stream:
                    np.lib.format.write_array_header_1_0(stream, header)
                    self._streams[name].seek(0)
                    shutil.copyfileobj(self._streams[name], stream)


class Joined:
    """Arrays of ``n`` rows that are filled batch by batch: one copy in memory, where joining parts takes two."""

    def __init__(self, n: int) -> None:
        self._n = n
        self.arrays: tuple[Array, ...] = ()
        self.rows = 0

    def add(self, *parts: Array) -> None:
        """Append as many rows to every array, in the dtypes and shapes of the first time."""
        if not self.arrays:
            self.arrays = tuple(np.empty((self._n, *part.shape[1:]), part.dtype) for part in parts)
        end = self.rows + len(parts[0])
        for array, part in zip(self.arrays, parts, strict=True):
            array[self.rows : end] = part
        self.rows = end


class RowReader:
    """Reads npz some rows at a time; a context manager. ``shapes`` are those of the whole arrays, by name, in order.

    Raises:
        BadInputError: the file is missing, is damaged, or its arrays are no rows of the same number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = ExitStack()
        self._streams: dict[str, IO[bytes]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        with _readable(path), ExitStack() as opened:
            archive = opened.enter_context(zipfile.ZipFile(path))
            for member in archive.namelist():
                self._open(member.removesuffix(_NPY), opened.enter_context(archive.open(member)))
            lengths = {shape[:1] for shape in self.shapes.values()}
            if len(lengths) != 1 or () in lengths:
                raise ValueError(f"its arrays {self.shapes} are no rows of the same number")
            self._files = opened.pop_all()
        self.rows = lengths.pop()[0]
        self.row_bytes = sum(math.prod(shape[1:]) * self._dtypes[name].itemsize for name, shape in self.shapes.items())

    def read(self, rows: int) -> dict[str, Array]:
        """The next ``rows`` rows of every array."""
        with _readable(self._path):
            return {name: self._rows(name, rows) for name in self._streams}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._files.close()

    def _open(self, name: str, stream: IO[bytes]) -> None:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"array {name!r} is in another version of npy")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        if fortran_order or dtype.hasobject:
            raise ValueError(f"array {name!r} is not stored row by row")
        self._streams[name], self._dtypes[name], self.shapes[name] = stream, dtype, shape

    def _rows(self, name: str, rows: int) -> Array:
        dtype, shape = self._dtypes[name], (rows, *self.shapes[name][1:])
        content = self._streams[name].read(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape)


def _told(alike: _Alike) -> str:
    return ", ".join(f"{name}: {dtype}{list(shape)}" for name, (dtype, shape) in alike.items())


def _new_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # Dated 1980, where numpy.savez takes whatever zipfile sets.
    return archive.open(zipfile.ZipInfo(name + _NPY), "w", force_zip64=True)


@contextmanager
def _readable(file: Path | IO[bytes]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BadInputError(
            f"cannot read arrays from {file}: {error}; give an npz file without pickled objects"
        ) from error
