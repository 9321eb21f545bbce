"""Example: a few examples of the test set with what an engine file answered, kept beside it to be asked again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slipway.measure.arrays import Array, Arrays, read_arrays, write_arrays
from slipway.measure.classes import are_classes

EXAMPLE_FILE = "example.npz"
MOST_EXAMPLES = 8
MOST_BYTES = 8_000_000
MOST_BYTES_OF_ONE = 4_000_000
HEADER_BYTES = 1000  # of an array in npz; really a quarter of it
_INPUT, _OUTPUT, _TARGET = "input:", "output:", "target"


@dataclass(frozen=True)
class Example:
    """Inputs and outputs by name, and targets, of the same examples; each example was asked alone."""

    inputs: Arrays
    outputs: Arrays
    target: Array


class ExampleDraw:
    """Chooses from ``n`` examples that stream by: at most 8, and 8 MB with their answers.

    Of classes as many as possible are among them, as evenly as possible, and of those the first that come; where there
    are no classes, the examples lie evenly in the set.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._seen = 0
        self._one_bytes = 0
        self._most = 0
        self._held: dict[int, tuple[int, dict[str, Array]]] = {}  # by number, its class and its row

    def add(self, inputs: Arrays, outputs: Arrays, target: Array) -> None:
        """See the next examples, with the reference's answers, which are as large as a candidate's."""
        rows = {**{_INPUT + name: array for name, array in inputs.items()}, _TARGET: target}
        if self._seen == 0:
            arrays = [*rows.values(), *outputs.values()]
            self._one_bytes = sum(array[:1].nbytes for array in arrays)
            room = (MOST_BYTES - HEADER_BYTES * len(arrays)) // max(self._one_bytes, 1)
            self._most = min(MOST_EXAMPLES, room) if self._one_bytes <= MOST_BYTES_OF_ONE else 0
        if are_classes(next(iter(outputs.values())), target):
            self._by_class(rows, target.reshape(-1).astype(np.int64).tolist())
        else:
            for place in {index * self._n // self._most for index in range(self._most)}:
                if 0 <= place - self._seen < len(target):
                    self._held[place] = (0, _row(rows, place - self._seen))
        self._seen += len(target)

    def save(self, path: Path) -> str | None:
        """Write inputs and targets; where one example is too large, tell so and write nothing."""
        if self._most == 0:
            return (
                f"no example is kept: one takes {self._one_bytes / 1e6:.1f} MB, more than {MOST_BYTES_OF_ONE / 1e6:g}"
            )
        chosen = [row for _, (_, row) in sorted(self._held.items(), key=lambda held: held[0])]
        write_arrays(path, {name: np.concatenate([row[name] for row in chosen]) for name in chosen[0]})
        return None

    def _by_class(self, rows: Arrays, labels: list[int]) -> None:
        held = Counter(label for label, _ in self._held.values())
        for place, label in enumerate(labels):
            if len(self._held) >= self._most:
                ((common, most),) = held.most_common(1) or [(0, 0)]
                if most <= held[label] + 1:
                    continue
                del self._held[max(number for number, (of, _) in self._held.items() if of == common)]
                held[common] -= 1
            self._held[self._seen + place] = (label, _row(rows, place))
            held[label] += 1


def load_example(path: Path) -> Example:
    """Read an example; before an engine was asked, it has no outputs.

    Raises:
        BadInputError: the file cannot be read.
    """
    arrays = read_arrays(path)
    inputs, outputs = (
        {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        for prefix in (_INPUT, _OUTPUT)
    )
    return Example(inputs, outputs, arrays[_TARGET])


def save_example(path: Path, example: Example) -> None:
    """Write arrays ``input:NAME``, ``output:NAME`` and ``target``; equal examples give equal bytes."""
    inputs = {_INPUT + name: array for name, array in example.inputs.items()}
    outputs = {_OUTPUT + name: array for name, array in example.outputs.items()}
    write_arrays(path, {**inputs, **outputs, _TARGET: example.target})


def _row(rows: Arrays, place: int) -> dict[str, Array]:
    return {name: array[place : place + 1].copy() for name, array in rows.items()}
