"""Runs an ONNX model and answers with any tensors inside it, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway.errors import BadInputError, RejectedError, first_line

if TYPE_CHECKING:
    import onnx

Array: TypeAlias = npt.NDArray[np.generic]
Arrays: TypeAlias = Mapping[str, Array]
Batches: TypeAlias = Callable[[], Iterable[Arrays]]  # gives the same batches each time it is called
Positions: TypeAlias = npt.NDArray[np.int64]

SILENT = 4  # ONNX Runtime's severity "fatal": everything below is raised as well as logged


class Probe:
    """A session of ONNX Runtime that answers with named tensors; what it holds at once are those of one batch."""

    def __init__(self, model: onnx.ModelProto, names: Collection[str], *, optimised: bool = False) -> None:
        """Open ``model`` to read the tensors ``names``: inputs, outputs, inner values whose type was inferred.

        Unoptimised, the graph runs as it is written; optimised, with the kernels that an engine would use.

        Raises:
            RejectedError: ONNX Runtime cannot open the model.
        """
        import onnx
        import onnxruntime

        opened = onnx.ModelProto()
        opened.CopyFrom(model)
        self._inputs = [one.name for one in opened.graph.input]
        ends = {*self._inputs, *(one.name for one in opened.graph.output)}
        opened.graph.output.extend(one for one in opened.graph.value_info if one.name in names and one.name not in ends)
        self._from_input = [name for name in names if name in self._inputs]
        self._read = [name for name in names if name not in self._inputs]
        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        options.log_severity_level = SILENT
        try:
            self._session = onnxruntime.InferenceSession(
                opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise RejectedError(f"ONNX Runtime cannot open the model: {first_line(error)}") from error

    def run(self, batch: Arrays) -> dict[str, Array]:
        """The named tensors on one batch.

        Raises:
            BadInputError: the batch lacks an input.
            RejectedError: the model does not run on the batch.
        """
        missing = [name for name in self._inputs if name not in batch]
        if missing:
            raise BadInputError(f"the examples lack input {missing[0]!r}; they have {', '.join(batch)}")
        try:
            outputs = self._session.run(self._read, {name: batch[name] for name in self._inputs}) if self._read else []
        except Exception as error:
            raise RejectedError(f"the model does not run on the examples: {first_line(error)}") from error
        found = dict(zip(self._read, outputs, strict=True))
        return found | {name: batch[name] for name in self._from_input}


def numbered(batches: Iterable[Arrays]) -> Iterator[tuple[Positions, Arrays]]:
    """Each batch with the positions of its examples among all."""
    start = 0
    for batch in batches:
        length = len(next(iter(batch.values())))
        yield np.arange(start, start + length), batch
        start += length


def rows(batch: Arrays, wanted: npt.NDArray[np.bool_]) -> dict[str, Array]:
    """Some examples of a batch."""
    return {name: array[wanted] for name, array in batch.items()}
