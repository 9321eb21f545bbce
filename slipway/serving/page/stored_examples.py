"""The examples that a release kept beside an engine, as requests of the protocol that a person may send."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slipway.errors import BadInputError
from slipway.measure.example import Example, load_example
from slipway.serving.http.inference_json import Array, described

MOST_NUMBERS = 500_000  # of one example and its answer: an image of 400 x 400 in colours, some megabytes of JSON


def labels(path: Path | None) -> list[int | float | None]:
    """The target of each example that can be asked for, None where it is no single number."""
    return _labels(_read(path))


def stored_example(path: Path | None, index: int) -> dict[str, Any] | None:
    """Example ``index``: the ``request`` with a batch of one, the stored ``answer`` to it, and its ``label``.

    None where there is no such example, or it is too large to be shown.
    """
    example = _read(path)
    known = _labels(example)
    if example is None or index >= len(known):
        return None
    return {
        "label": known[index],
        "request": {"inputs": _tensors(example.inputs, index)},
        "answer": _tensors(example.outputs, index),
    }


def _read(path: Path | None) -> Example | None:
    """All examples; none where there were none, or the file went with the version that was served until now."""
    try:
        return None if path is None else load_example(path)
    except BadInputError:
        return None


def _labels(example: Example | None) -> list[int | float | None]:
    if example is None:
        return []
    arrays = [*example.inputs.values(), *example.outputs.values()]
    if sum(array[:1].size for array in arrays) > MOST_NUMBERS:
        return []
    return [row.item() if row.size == 1 else None for row in example.target]


def _tensors(arrays: Mapping[str, Array], index: int) -> list[dict[str, Any]]:
    rows = {name: np.ascontiguousarray(array[index : index + 1]) for name, array in arrays.items()}
    return [described(name, row) | {"data": row.ravel()} for name, row in rows.items()]
