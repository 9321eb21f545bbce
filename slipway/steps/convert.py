"""Convert a data set, once, into the shards that every other step streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slipway.errors import BadInputError
from slipway.stores.conversion import Format, InputSpec, Stream, function, images, npz, parquet
from slipway.stores.datasets import Batch, write_batches


def open_source(kind: Format, source: str, inputs: Sequence[InputSpec], target: str, labels: Path | None) -> Stream:
    """The examples of ``source``, a path or, for a function, its name.

    Raises:
        BadInputError: the source cannot be read, or what its form needs was not given.
    """
    if kind == "function":
        return function(source, inputs)
    if not inputs:
        raise BadInputError(f"which inputs of the model does {source} hold? give --input NAME[:DTYPE[:SHAPE]]")
    if kind == "images":
        if labels is None or len(inputs) > 1:
            raise BadInputError("images need --labels FILE.csv (columns `file` and the target) and a single --input")
        return images(Path(source), labels, inputs[0], target)
    return {"parquet": parquet, "npz": npz}[kind](Path(source), inputs, target)


def convert(stream: Stream, directory: Path, shard_size: int, progress: Callable[[int], None]) -> list[Path]:
    """Write the examples of ``stream`` as npz shards; ``progress`` is told how many were read, as they are read.

    Raises:
        BadInputError: ``directory`` holds other files, which would be lost, or the examples are unusable.
    """
    if directory.exists() and any(path.suffix != ".npz" for path in directory.iterdir()):
        raise BadInputError(f"{directory} holds other files than shards and would be replaced; name a new directory")

    def told() -> Iterator[Batch]:
        for batch in stream.batches:
            yield batch
            progress(len(batch))

    return write_batches(directory, told(), shard_size)
