"""Data sets in the forms people have, read as a stream of batches: images with a CSV, Parquet, npz, a function."""

from __future__ import annotations

import csv
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from slipway.errors import BadInputError
from slipway.stores.datasets import Array, Batch

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]  # it ships no types

Format: TypeAlias = Literal["images", "parquet", "npz", "function"]
BATCH_SIZE = 256
GREY, COLOUR = 1, 3
LARGEST_BYTE = 255


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of the model: the column or array of that name, cast to ``dtype`` and given ``shape`` per example."""

    name: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Read ``NAME``, ``NAME:DTYPE`` or ``NAME:DTYPE:SHAPE``, as in ``image:float32:3x32x32``.

        Raises:
            BadInputError: it is spelt otherwise.
        """
        name, _, rest = text.partition(":")
        dtype, _, shape = rest.partition(":")
        try:
            sizes = tuple(int(size) for size in shape.split("x")) if shape else None
            return cls(name, np.dtype(dtype).name if dtype else None, sizes)
        except (TypeError, ValueError) as error:
            raise BadInputError(
                f"input {text!r} is not NAME, NAME:DTYPE or NAME:DTYPE:SHAPE; write for example image:float32:3x32x32"
            ) from error


@dataclass(frozen=True, slots=True)
class Stream:
    """Batches to come, and how many examples they will hold, where that is known."""

    batches: Iterator[Batch]
    total: int | None


def images(folder: Path, labels: Path, spec: InputSpec, target: str) -> Stream:
    """The images that the CSV ``labels`` names in its column ``file``, with the number in its column ``target``.

    Pixels become float32 in [0, 1], channels first. With a shape (1 or 3, height, width) images are turned grey or
    coloured, and resized bilinearly; without one they are coloured, and must be alike in size.

    Raises:
        BadInputError: a column or file is missing, an image cannot be read, or a label is no number.
    """
    rows = _labels(labels, target)
    if spec.shape is not None and (len(spec.shape) != 3 or spec.shape[0] not in {GREY, COLOUR}):
        raise BadInputError(f"an image has shape 1xHEIGHTxWIDTH or 3xHEIGHTxWIDTH, not {spec.shape}")

    def read() -> Iterator[Batch]:
        for start in range(0, len(rows), BATCH_SIZE):
            part = rows[start : start + BATCH_SIZE]
            pixels = [_pixels(folder / name, spec.shape) for name, _ in part]
            for (name, _), one in zip(part, pixels, strict=True):
                if one.shape != pixels[0].shape:
                    raise BadInputError(
                        f"{folder / name} has shape {one.shape}, {folder / part[0][0]} has {pixels[0].shape}; "
                        f"give one size to all: --input {spec.name}:float32:3xHEIGHTxWIDTH"
                    )
            yield Batch({spec.name: _cast(np.stack(pixels), spec, labels)}, np.array([label for _, label in part]))

    return Stream(read(), len(rows))


def _labels(path: Path, target: str) -> list[tuple[str, int | float]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            for column in ("file", target):
                if column not in (reader.fieldnames or ()):
                    raise BadInputError(f"{path} has columns {reader.fieldnames}, none called {column!r}; add it")
            return [(row["file"], _number(row[target], path, reader.line_num)) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot read labels {path}: {error}; give --labels FILE.csv") from error


def _number(text: str, path: Path, line: int) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    raise BadInputError(f"{path}, line {line}: {text!r} is no number; number the classes in the order of the model's")


def _pixels(path: Path, shape: tuple[int, ...] | None) -> Array:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if shape and shape[0] == GREY else "RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise BadInputError(f"cannot read image {path}: {error}; mend or remove its row") from error
    if shape and image.size != (shape[2], shape[1]):
        image = image.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32) / LARGEST_BYTE
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def parquet(source: Path, specs: Sequence[InputSpec], target: str) -> Stream:
    """A Parquet file, or all ``.parquet`` files of a folder in the order of their names.

    Raises:
        BadInputError: a file or column is missing, or a column holds nulls or lists of different lengths.
    """
    import pyarrow.parquet  # type: ignore[import-untyped]  # it ships no types

    def opened(path: Path) -> Any:
        try:
            return pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise BadInputError(f"cannot read {path}: {' '.join(str(error).split())}; write it again") from error

    def read() -> Iterator[Batch]:
        for path in paths:
            with opened(path) as file:
                _require(path, file.schema_arrow.names, specs, target)
                for rows in file.iter_batches(BATCH_SIZE, columns=[*(spec.name for spec in specs), target]):
                    inputs = {spec.name: _cast(_column(rows, spec.name, path), spec, path) for spec in specs}
                    yield Batch(inputs, _column(rows, target, path))

    paths = _files(source, ".parquet")
    total = 0
    for path in paths:
        with opened(path) as file:
            total += file.metadata.num_rows
    return Stream(read(), total)


def _column(rows: pyarrow.RecordBatch, name: str, path: Path) -> Array:
    column = rows.column(name)
    if column.null_count:
        raise BadInputError(f"{path}: column {name!r} holds nulls; fill them or leave those rows out")
    try:
        array = np.asarray(column.to_numpy(zero_copy_only=False))
        # Nested lists come as arrays of arrays; a list of their values is what numpy stacks.
        return np.array(column.to_pylist()) if array.dtype == object else array
    except ValueError as error:
        raise BadInputError(f"{path}: column {name!r} holds lists of different lengths; make them alike") from error


def npz(source: Path, specs: Sequence[InputSpec], target: str) -> Stream:
    """An npz file, or all of a folder in the order of their names, whatever their size.

    Raises:
        BadInputError: a file cannot be read, or an array is missing.
    """

    def read() -> Iterator[Batch]:
        for path in paths:
            try:
                with np.load(path, allow_pickle=False) as archive:
                    _require(path, archive.files, specs, target)
                    inputs = {spec.name: _cast(archive[spec.name], spec, path) for spec in specs}
                    labels = archive[target]
            except (OSError, ValueError, EOFError) as error:
                raise BadInputError(f"cannot read {path}: {' '.join(str(error).split())}; write it again") from error
            yield from _cut(inputs, labels)

    paths = _files(source, ".npz")
    return Stream(read(), None)


def function(name: str, specs: Sequence[InputSpec]) -> Stream:
    """What ``package.module:function`` yields when called: pairs of (inputs by name, targets), examples first.

    Raises:
        BadInputError: there is no such function, it fails, or it yields something else.
    """
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.fspath(Path.cwd()))  # as `python -m` would
    try:
        called: Callable[[], Any] = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInputError(f"cannot import {name!r}: {error}; write package.module:function") from error
    finally:
        sys.path.pop(0)

    def read() -> Iterator[Batch]:
        try:
            for inputs, target in called():
                arrays = {spec.name: _cast(np.asarray(inputs[spec.name]), spec, name) for spec in specs}
                yield Batch(arrays or {key: np.asarray(value) for key, value in inputs.items()}, np.asarray(target))
        except BadInputError:
            raise
        except Exception as error:
            raise BadInputError(
                f"{name} failed: {type(error).__name__}: {error}; it must yield pairs of (inputs by name, targets)"
            ) from error

    return Stream(read(), None)


def _files(source: Path, suffix: str) -> list[Path]:
    found = sorted(source.glob(f"*{suffix}")) if source.is_dir() else [source]
    if not found or not found[0].exists():
        raise BadInputError(f"found no {suffix} file at {source}; check the path")
    return found


def _require(path: Path, names: Sequence[str], specs: Sequence[InputSpec], target: str) -> None:
    for name in (*(spec.name for spec in specs), target):
        if name not in names:
            raise BadInputError(
                f"{path} has no {name!r}, only {', '.join(names) or 'nothing'}; see --input and --target"
            )


def _cut(inputs: Mapping[str, Array], target: Array) -> Iterator[Batch]:
    for start in range(0, len(target), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        yield Batch({name: array[part] for name, array in inputs.items()}, target[part])


def _cast(array: Array, spec: InputSpec, source: object) -> Array:
    """``array`` in the dtype and shape asked for; never from a float to an integer, which would lose what it holds."""
    if spec.dtype is not None:
        if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
            raise BadInputError(
                f"{source}: {spec.name!r} is {array.dtype} and cannot become {spec.dtype}; convert it first"
            )
        array = array.astype(spec.dtype)
    if spec.shape is not None and array.shape[1:] != spec.shape:
        try:
            array = array.reshape(len(array), *spec.shape)
        except ValueError as error:
            raise BadInputError(
                f"{source}: {spec.name!r} has shape {array.shape[1:]} per example and cannot become {spec.shape}"
            ) from error
    return array
