"""Accuracy class by class: where the answers are classes, which of them a candidate lost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slipway.measure.arrays import Array
from slipway.records import ClassAccuracy

MOST_CLASSES = 1000


def are_classes(outputs: Array, target: Array) -> bool:
    """Whether outputs (n, classes >= 2) are scored against one whole number per example."""
    return outputs.ndim == 2 and outputs.shape[1] >= 2 and target.size == len(outputs) and target.dtype.kind in "iub"


def by_class(
    labels: NDArray[np.generic], before: NDArray[np.float64], after: NDArray[np.float64]
) -> tuple[tuple[ClassAccuracy, ...], str | None]:
    """Every class by label, and in words the one that lost most; None where none lost anything.

    All arrays are (n,): the labels, and what reference and candidate scored in [0, 1]. Of more than 1,000 classes the
    worst alone is told.
    """
    classes, of_class = np.unique(labels, return_inverse=True)
    sizes = np.bincount(of_class)
    was, now = np.bincount(of_class, before) / sizes, np.bincount(of_class, after) / sizes
    worst = int(np.argmax(was - now))
    words = f"class {classes[worst]}: {was[worst]:.1%} -> {now[worst]:.1%} (n={sizes[worst]})"
    rows = zip(classes.tolist(), sizes.tolist(), was.tolist(), now.tolist(), strict=True)
    told = (ClassAccuracy(label=str(label), n=n, reference=r, candidate=c) for label, n, r, c in rows)
    return tuple(told) if len(classes) <= MOST_CLASSES else (), words if was[worst] > now[worst] else None
