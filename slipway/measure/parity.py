"""Parity: how far one set of outputs lies from another on the same examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slipway.errors import BadInputError, RejectedError
from slipway.measure.arrays import Array, Arrays
from slipway.records import Parity

# A relative difference is taken against at least this share of the output's largest magnitude: next to a value near
# zero any rounding error is relatively huge and tells nothing.
RELATIVE_FLOOR = 1e-3
SMALLEST_MAGNITUDE = 1e-12


class ParityAccumulator:
    """Parity over any number of batches, in memory that their number does not change.

    Batches are batch first. The figures are those over all examples at once; the cosine is the lowest over outputs,
    each flattened; top-1 agreement is told where the first output is (n, >=2); values that the reference does not
    keep finite are left out. Only the relative difference may be told too large, by at most 2.2%:
    see `_Differences`.
    """

    def __init__(self) -> None:
        self._outputs: dict[str, _Differences] = {}
        self._examples = 0
        self._agreeing: int | None = 0

    def add(self, reference: Arrays, candidate: Arrays) -> None:
        """Take in one batch of both.

        Raises:
            RejectedError: names or shapes differ, or the candidate holds NaN or infinity where the reference does not.
            BadInputError: there are no outputs, or no examples.
        """
        _check_names(reference, candidate)
        for name, array in reference.items():
            self._outputs.setdefault(name, _Differences()).add(*_paired(name, array, candidate[name]))
        first = next(iter(reference))
        agreeing = _agreeing(reference[first], candidate[first])
        self._agreeing = None if agreeing is None or self._agreeing is None else self._agreeing + agreeing
        self._examples += len(reference[first])

    def result(self) -> Parity:
        """Parity over every batch so far.

        Raises:
            BadInputError: there was none.
        """
        if not self._outputs:
            raise BadInputError("parity over no examples is undefined; give real inputs")
        return Parity(
            max_abs_diff=max(output.max_abs_diff for output in self._outputs.values()),
            max_rel_diff=max(output.max_rel_diff() for output in self._outputs.values()),
            cosine=min(output.cosine() for output in self._outputs.values()),
            top1_agreement=None if self._agreeing is None else self._agreeing / self._examples,
            n=self._examples,
        )


class _Differences:
    """The differences of one output.

    A value of magnitude m that is off by d differs relatively by d / max(m, floor) = min(d / m, d / floor), and the
    floor, a share of the largest magnitude, is known at the end only. So the largest d and the largest d / m are kept
    for each of many narrow ranges of magnitude. That is exact for all ranges but the one that holds the floor, where
    the two may belong to different values: there the difference is told too large by at most the range's width.
    """

    RANGES_PER_OCTAVE = 32  # a width of 2.2%
    LOWEST = int(np.floor(np.log2(SMALLEST_MAGNITUDE))) * RANGES_PER_OCTAVE
    RANGES = np.finfo(np.float64).maxexp * RANGES_PER_OCTAVE - LOWEST

    def __init__(self) -> None:
        self.max_abs_diff = 0.0
        self._largest = 0.0
        self._abs, self._rel = np.zeros(self.RANGES), np.zeros(self.RANGES)
        self._product, self._square, self._candidate_square = 0.0, 0.0, 0.0

    def add(self, expected: NDArray[np.float64], found: NDArray[np.float64]) -> None:
        """Take in finite values, flat."""
        difference = np.abs(found - expected)
        magnitude = np.maximum(np.abs(expected), SMALLEST_MAGNITUDE)
        self.max_abs_diff = max(self.max_abs_diff, float(np.max(difference, initial=0.0)))
        self._largest = max(self._largest, float(np.max(magnitude, initial=0.0)))
        ranges = np.floor(np.log2(magnitude) * self.RANGES_PER_OCTAVE).astype(np.intp) - self.LOWEST
        np.maximum.at(self._abs, ranges, difference)
        np.maximum.at(self._rel, ranges, difference / magnitude)
        self._product += float(np.dot(expected, found))
        self._square += float(np.dot(expected, expected))
        self._candidate_square += float(np.dot(found, found))

    def max_rel_diff(self) -> float:
        """The largest difference against the value's own magnitude, or against the floor where that is larger."""
        floor = max(RELATIVE_FLOOR * self._largest, SMALLEST_MAGNITUDE)
        return float(np.max(np.minimum(self._rel, self._abs / floor)))

    def cosine(self) -> float:
        """Cosine of both as vectors; 1 for two zero vectors, 0 for one."""
        lengths = self._square**0.5, self._candidate_square**0.5
        if 0.0 in lengths:
            return 1.0 if lengths[0] == lengths[1] else 0.0
        return float(np.clip(self._product / lengths[0] / lengths[1], -1.0, 1.0))


def compare_outputs(reference: Arrays, candidate: Arrays) -> Parity:
    """Parity over all outputs of one batch, as `ParityAccumulator` tells it, and raising what its ``add`` raises."""
    parity = ParityAccumulator()
    parity.add(reference, candidate)
    return parity.result()


def require_close(reference: Arrays, candidate: Arrays, rtol: float = 1e-4, atol: float = 2e-5) -> None:
    """Check fp32 outputs of one batch: within ``rtol * |reference| + atol * max(1, max|reference|)`` everywhere.

    What computes the same operators in fp32, in whatever order, keeps to 6e-7 of an output's largest magnitude
    (measured on six networks of 7 to 700 operators, every engine against eager PyTorch): a thirtieth of ``atol``.

    Raises:
        RejectedError: an output differs by more, naming it and the difference, or as `ParityAccumulator.add` raises.
    """
    _check_names(reference, candidate)
    for name, array in reference.items():
        expected, found = _paired(name, array, candidate[name])
        difference, magnitude = np.abs(found - expected), np.abs(expected)
        allowed = rtol * magnitude + atol * max(1.0, float(np.max(magnitude, initial=0.0)))
        beyond = int(np.sum(difference > allowed))
        if beyond:
            raise RejectedError(
                f"max difference {np.max(difference):.3g} at output {name!r}, {beyond} of {difference.size} values "
                f"beyond rtol {rtol:g} and atol {atol:g}"
            )


def _check_names(reference: Arrays, candidate: Arrays) -> None:
    if not reference or next(iter(reference.values())).shape[:1] in ((), (0,)):
        raise BadInputError("parity needs at least one output over at least one example, found none; give real inputs")
    if set(reference) != set(candidate):
        raise RejectedError(
            f"outputs differ by name: the reference answers {sorted(reference)}, the candidate {sorted(candidate)}"
        )


def _paired(name: str, reference: Array, candidate: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both outputs, flat, in float64, at the places where both are finite."""
    if reference.shape != candidate.shape:
        raise RejectedError(
            f"output {name!r} has shape {candidate.shape} in the candidate, {reference.shape} in the reference"
        )
    expected = reference.astype(np.float64).ravel()
    found = candidate.astype(np.float64).ravel()
    broken = (~np.isfinite(found) & np.isfinite(expected)) | (np.isnan(found) & ~np.isnan(expected))
    if broken.any():
        raise RejectedError(
            f"output {name!r} holds NaN or infinity in {int(broken.sum())} of {broken.size} values "
            "where the reference does not; the candidate overflows or is broken"
        )
    finite = np.isfinite(expected) & np.isfinite(found)
    return expected[finite], found[finite]


def _agreeing(reference: Array, candidate: Array) -> int | None:
    """How many examples have the same top-1 class in both; None where the outputs are no classes."""
    if reference.ndim != 2 or reference.shape[1] < 2:
        return None
    return int(np.sum(top1(reference) == top1(candidate)))


def top1(outputs: Array) -> NDArray[np.intp]:
    """The class with the highest score per example, shape (n,); the first one of equals."""
    return np.argmax(outputs, axis=1)  # type: ignore[no-any-return]  # numpy types argmax of a generic array as Any
