"""What every session shares: its signature, and the check of the arrays that come in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from slipway.engines.base import Arrays
from slipway.engines.checks import describe
from slipway.errors import BadInputError
from slipway.records import Signature, TensorSpec


class CheckedSession(ABC):
    """A session that refuses arrays its file was not made for, before the runtime sees them."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._expected = tuple((spec.name, np.dtype(spec.dtype), spec.shape) for spec in signature.inputs)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs by name, as the file itself tells them."""
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs by name, as the file itself tells them."""
        return self._signature.outputs

    def infer(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Outputs by name; arrays are C-contiguous, in the dtypes of ``inputs``, batch first.

        Raises:
            BadInputError: an array is missing, unknown, or has another dtype, rank or fixed size.
        """
        if len(arrays) != len(self._expected):
            raise self._refusal(arrays)
        for name, dtype, shape in self._expected:
            array = arrays.get(name)
            if array is None or array.dtype != dtype or not _fits(array.shape, shape):
                raise self._refusal(arrays)
        return self._run(arrays)

    @abstractmethod
    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Outputs by name of arrays that were checked."""

    @abstractmethod
    def executed_precision(self) -> dict[str, int]:
        """How many compute layers ran in each precision, where the runtime can tell; else empty."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of the runtime's memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _refusal(self, arrays: Arrays) -> BadInputError:
        given = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
        return BadInputError(
            f"the model takes {describe(self.inputs)}, but was given {given or 'nothing'}; "
            "give exactly these arrays (-1 is any size)"
        )


def _fits(given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(given) == len(expected) and all(want in (-1, got) for got, want in zip(given, expected, strict=True))
