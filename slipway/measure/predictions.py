"""Predictions: what a model answered to a whole data set, on disk and never in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from slipway.errors import BadInputError, RejectedError
from slipway.measure.arrays import Array, Arrays, RowReader, RowWriter, write_arrays

_OUTPUT = "output/"
_TARGET = "target"
Add: TypeAlias = Callable[[Arrays, Array], None]


@contextmanager
def written_predictions(path: Path) -> Iterator[Add]:
    """Write predictions as npz while they are made: what is given takes (outputs, target) of one batch after another.

    The bytes are those of `save_predictions`, and appear when the context ends without an error. An engine may hand out
    the same buffer again for the next batch.

    Raises:
        BadInputError: there were no examples.
        RejectedError: an output is not batch first, or its name, dtype or shape changes between batches.
    """
    with RowWriter(path) as writer:

        def add(outputs: Arrays, target: Array) -> None:
            for name, output in outputs.items():
                if output.shape[:1] != target.shape[:1]:
                    raise RejectedError(
                        f"output {name!r} has shape {output.shape} for a batch of {len(target)}, not batch first"
                    )
            writer.add(_named(outputs, target))

        yield add
        if writer.rows == 0:
            raise BadInputError("accuracy over an empty set is undefined, found no examples; give test data")


def save_predictions(path: Path, outputs: Arrays, target: Array) -> None:
    """Write outputs and target as npz without pickle; equal predictions give equal bytes."""
    write_arrays(path, _named(outputs, target))


def load_predictions(path: Path, most: int | None = None) -> tuple[dict[str, Array], Array]:
    """Outputs by name, in order, and target; of the first ``most`` examples, or of all.

    Raises:
        BadInputError: the file is not one of predictions.
    """
    with PredictionsReader(path) as reader:
        return reader.answers(reader.rows if most is None else min(most, reader.rows))


class PredictionsReader(RowReader):
    """Reads predictions some examples at a time; a context manager. ``outputs`` are their shapes by name, in order.

    Raises:
        BadInputError: the file is not one of predictions.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.outputs = {name.removeprefix(_OUTPUT): s for name, s in self.shapes.items() if name.startswith(_OUTPUT)}
        if _TARGET not in self.shapes or not self.outputs:
            self.close()
            raise BadInputError(f"{path} holds {sorted(self.shapes)}, not outputs and a target; validate again")

    def answers(self, n: int) -> tuple[dict[str, Array], Array]:
        """Outputs by name and target of the next ``n`` examples."""
        rows = self.read(n)
        return {name: rows[_OUTPUT + name] for name in self.outputs}, rows[_TARGET]


def _named(outputs: Arrays, target: Array) -> dict[str, Array]:
    return {**{_OUTPUT + name: output for name, output in outputs.items()}, _TARGET: target}
