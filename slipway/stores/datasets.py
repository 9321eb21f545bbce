"""Data sets as directories of npz shards: arrays named as the model's inputs, plus ``target``, examples first."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from slipway.errors import BadInputError

Array: TypeAlias = npt.NDArray[np.generic]
TARGET = "target"
_Layout: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive examples: inputs by name, each of shape (examples, ...), their targets, and the shard's path."""

    inputs: dict[str, Array]
    target: Array | None
    path: Path | None = None

    def __len__(self) -> int:
        """How many examples the batch holds."""
        return len(next(iter(self.inputs.values())))


def shards(directory: Path) -> list[Path]:
    """The npz files of ``directory``, sorted by name.

    Raises:
        BadInputError: there are none.
    """
    found = sorted(directory.glob("*.npz"))
    if not found:
        raise BadInputError(f"data {directory} holds no .npz shards; write some, with one array per model input")
    return found


def batches(
    directory: Path, input_names: Sequence[str], batch_size: int, *, with_target: bool = True
) -> Iterator[Batch]:
    """Stream the examples in order, one shard in memory at a time; a shard's last batch may be smaller.

    Raises:
        BadInputError: naming the file and array that is missing, unreadable, not finite, of another length, dtype or
            shape than the others.
    """
    first: _Layout | None = None
    for path in shards(directory):
        arrays = _read(path, input_names, with_target=with_target)
        first = first or _layout(arrays)
        _check_alike(path, arrays, first)
        for start in range(0, len(arrays[input_names[0]]), batch_size):
            # Copied: a view in the hands of whoever took the last batch would keep this shard while the next is read.
            part = {name: array[start : start + batch_size].copy() for name, array in arrays.items()}
            yield Batch({name: part[name] for name in input_names}, part[TARGET] if with_target else None, path)
        del arrays


def count(directory: Path) -> int:
    """How many examples the shards hold, told by the headers of their targets alone, which is quick.

    Raises:
        BadInputError: naming the shard that is unreadable, or that there are none.
    """
    total = 0
    for path in shards(directory):
        with _opened(path) as archive:
            total += _rows(archive.zip, TARGET) if archive.zip and TARGET in archive.files else 0
    return total


def examples(directory: Path, input_names: Sequence[str], n: int) -> dict[str, Array]:
    """The inputs of the first ``n`` examples, or of all if there are fewer; shapes (n, ...)."""
    parts: list[Batch] = []
    for batch in batches(directory, input_names, n, with_target=False):
        parts.append(batch)
        if sum(map(len, parts)) >= n:
            break
    return {name: np.concatenate([part.inputs[name] for part in parts])[:n] for name in input_names}


def write_shards(directory: Path, inputs: Mapping[str, Array], target: Array, shard_size: int) -> list[Path]:
    """As `write_batches`, of arrays that are in memory."""
    return write_batches(directory, [Batch(dict(inputs), target)], shard_size)


def write_batches(directory: Path, found: Iterable[Batch], shard_size: int) -> list[Path]:
    """Write ``directory`` anew as shards of up to ``shard_size`` examples; the same arrays give the same bytes.

    One shard and one batch are in memory at a time. Readers never see half of the directory: it is written beside and
    renamed into place.

    Raises:
        BadInputError: there are no examples, an array is not finite, or batches differ in lengths, dtypes or shapes.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        for index, arrays in enumerate(_regrouped(directory, found, shard_size)):
            # savez stamps every member with 1980-01-01, so that the bytes depend on the arrays alone.
            np.savez(fresh / f"shard-{index:05d}.npz", allow_pickle=False, **arrays)
        if not any(fresh.iterdir()):
            raise BadInputError(f"{directory} would hold no examples; check the source")
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
    return shards(directory)


def _regrouped(directory: Path, found: Iterable[Batch], size: int) -> Iterator[dict[str, Array]]:
    """The same examples in groups of ``size``, the last one smaller."""
    parts: list[dict[str, Array]] = []
    held = 0
    first: _Layout | None = None
    for batch in found:
        arrays = {**batch.inputs, **({} if batch.target is None else {TARGET: batch.target})}
        _check(directory, arrays)
        first = first or _layout(arrays)
        _check_alike(directory, arrays, first)
        parts.append(arrays)
        held += len(batch)
        if held < size:
            continue
        whole, end = _joined(parts), held - held % size
        for start in range(0, end, size):
            yield {name: array[start : start + size] for name, array in whole.items()}
        parts, held = [{name: array[end:] for name, array in whole.items()}], held - end
    if held:
        yield _joined(parts)


def _joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def overlap(a: Path, b: Path, input_names: Sequence[str]) -> int:
    """How many examples of ``a`` are also in ``b``, told by a hash of all their inputs."""
    in_b = set(_example_hashes(b, input_names))
    return sum(example in in_b for example in _example_hashes(a, input_names))


def _example_hashes(directory: Path, input_names: Sequence[str]) -> Iterator[bytes]:
    for batch in batches(directory, input_names, batch_size=1024, with_target=False):
        for index in range(len(batch)):
            state = hashlib.blake2b(digest_size=16)
            for name in input_names:
                state.update(np.ascontiguousarray(batch.inputs[name][index]).tobytes())
            yield state.digest()


def _read(path: Path, input_names: Sequence[str], *, with_target: bool) -> dict[str, Array]:
    """All arrays of one shard, checked."""
    with _opened(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name in (*input_names, *([TARGET] if with_target else [])):
        if name not in arrays:
            raise BadInputError(f"{path} has no array {name!r}, only {', '.join(sorted(arrays)) or 'none'}; add it")
    _check(path, arrays)
    return arrays


def _rows(archive: zipfile.ZipFile, name: str) -> int:
    """How many rows an array has, told by its header."""
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read(stream)
    return shape[0] if shape else 0


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInputError(f"cannot read shard {path}: {' '.join(str(error).split())}; write it again") from error


def _check(path: Path, arrays: Mapping[str, Array]) -> None:
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    for name, length in lengths.items():
        if length == 0:
            raise BadInputError(f"{path}: array {name!r} holds no examples; leave empty shards out")
        if np.issubdtype(arrays[name].dtype, np.inexact) and not np.isfinite(arrays[name]).all():
            raise BadInputError(f"{path}: array {name!r} holds NaN or infinity; clean the data")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise BadInputError(f"{path}: arrays differ in length ({told}); one entry per example is needed")


def _layout(arrays: Mapping[str, Array]) -> _Layout:
    """Dtype and shape per example; not the arrays themselves, which would stay in memory."""
    return {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}


def _check_alike(path: Path, arrays: Mapping[str, Array], first: _Layout) -> None:
    found = _layout(arrays)
    if found.keys() != first.keys():
        raise BadInputError(
            f"{path} has arrays {', '.join(sorted(found))}, the first {', '.join(sorted(first))}; make them alike"
        )
    for name, (dtype, shape) in found.items():
        if (dtype, shape) != first[name]:
            raise BadInputError(
                f"{path}: array {name!r} is {dtype}{list(shape)} per example, in the first "
                f"{first[name][0]}{list(first[name][1])}; make them alike"
            )
