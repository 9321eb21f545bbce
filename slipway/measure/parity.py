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


def compare_outputs(reference: Arrays, candidate: Arrays) -> Parity:
    """Parity over all outputs, batch first; ``n`` examples, and top-1 agreement where the first output is (n, >=2).

    The cosine is the lowest over outputs, each flattened. Values that the reference itself does not keep finite are
    left out of the differences.

    Raises:
        RejectedError: names or shapes differ, or the candidate holds NaN or infinity where the reference does not.
        BadInputError: there are no outputs, or no examples.
    """
    _check_names(reference, candidate)
    pairs = {name: _paired(name, array, candidate[name]) for name, array in reference.items()}
    first = next(iter(reference))
    return Parity(
        max_abs_diff=max(_max_abs_diff(*pair) for pair in pairs.values()),
        max_rel_diff=max(_max_rel_diff(*pair) for pair in pairs.values()),
        cosine=min(_cosine(*pair) for pair in pairs.values()),
        top1_agreement=_top1_agreement(reference[first], candidate[first]),
        n=len(reference[first]),
    )


def check_export(reference: Arrays, candidate: Arrays, rtol: float = 1e-3, atol: float = 1e-4) -> Parity:
    """Parity of an fp32 export, which must agree with the reference within ``atol + rtol * |reference|`` everywhere.

    Raises:
        RejectedError: it does not agree; the output and the difference are named.
    """
    parity = compare_outputs(reference, candidate)
    for name, array in reference.items():
        expected, found = _paired(name, array, candidate[name])
        excess = np.abs(found - expected) - (atol + rtol * np.abs(expected))
        if np.any(excess > 0):
            raise RejectedError(
                f"export is wrong: max difference {_max_abs_diff(expected, found):.3g} at output {name!r}, "
                f"{int(np.sum(excess > 0))} of {excess.size} values beyond rtol {rtol:g} and atol {atol:g}; "
                "the export computes something else than the model"
            )
    return parity


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


def _max_abs_diff(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(found - expected), initial=0.0))


def _max_rel_diff(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    magnitude = np.abs(expected)
    floor = max(RELATIVE_FLOOR * float(np.max(magnitude, initial=0.0)), 1e-12)
    return float(np.max(np.abs(found - expected) / np.maximum(magnitude, floor), initial=0.0))


def _cosine(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Cosine of two vectors; 1 for two zero vectors, 0 for one."""
    lengths = float(np.linalg.norm(expected)), float(np.linalg.norm(found))
    if 0.0 in lengths:
        return 1.0 if lengths[0] == lengths[1] else 0.0
    return float(np.clip(np.dot(expected / lengths[0], found / lengths[1]), -1.0, 1.0))


def _top1_agreement(reference: Array, candidate: Array) -> float | None:
    if reference.ndim != 2 or reference.shape[1] < 2:
        return None
    return float(np.mean(top1(reference) == top1(candidate)))


def top1(outputs: Array) -> NDArray[np.intp]:
    """The class with the highest score per example, shape (n,); the first one of equals."""
    return np.argmax(outputs, axis=1)  # type: ignore[no-any-return]  # numpy types argmax of a generic array as Any
