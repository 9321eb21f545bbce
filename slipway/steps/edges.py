"""Real inputs at the edges of a model's dynamic dimensions, and what the eager reference answers there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slipway.engines.base import Arrays, Session
from slipway.errors import RejectedError, first_line
from slipway.records import DataSource, Signature
from slipway.stores.datasets import examples

CHECKED_BATCHES = (1, 3)
# Smaller sizes of a dimension of ``size``, the smallest first.
CUTS: tuple[Callable[[int], int], ...] = (lambda _: 1, lambda size: min(size, 2), lambda size: (size + 1) // 2)


@dataclass(frozen=True)
class Case:
    """Inputs, what the reference answers to them, and in words where they lie."""

    where: str
    inputs: Arrays
    reference: Arrays


def cases(eager: Session, data: DataSource, signature: Signature, first_batch: int = 1) -> Iterator[Case]:
    """The first examples of ``data`` at batch sizes 1, 3 and ``first_batch``, and cut where other sizes are dynamic.

    An engine may have code of its own for ``first_batch``; it is left out where there are fewer examples.

    All examples of a data set have one size, which is the largest edge. The smallest is 1, 2 or half of that, whichever
    the model itself answers first; a model that answers none has no smaller edge. Dimensions of one size are cut alike,
    for they mostly are one, such as tokens and their mask.
    """
    sample = examples(Path(data.path), [spec.name for spec in signature.inputs], max(*CHECKED_BATCHES, first_batch))
    available = len(next(iter(sample.values())))
    further = (first_batch,) if first_batch not in CHECKED_BATCHES and first_batch <= available else ()
    for batch in (*CHECKED_BATCHES, *further):
        inputs = first(sample, batch)
        yield Case(f"batch {batch}", inputs, answers(eager, inputs))
    if any(-1 in spec.shape[1:] for spec in signature.inputs):
        yield from _smallest(eager, first(sample, max(CHECKED_BATCHES)), signature)


def answers_to(case: Case, session: Session, what: str) -> dict[str, np.ndarray]:
    """What ``session`` answers where the reference does.

    Raises:
        RejectedError: it does not; ``what`` it is and why are told.
    """
    try:
        return answers(session, case.inputs)
    except Exception as error:
        raise RejectedError(f"{what} does not run at {case.where}, as the model does: {first_line(error)}") from error


def first(arrays: Arrays, count: int) -> dict[str, np.ndarray]:
    """The first ``count`` examples of a batch."""
    return {name: array[:count] for name, array in arrays.items()}


def _smallest(eager: Session, sample: Arrays, signature: Signature) -> Iterator[Case]:
    for cut in CUTS:
        inputs = {spec.name: _cut(sample[spec.name], spec.shape, cut) for spec in signature.inputs}
        try:
            expected = answers(eager, inputs)
        except Exception:  # noqa: BLE001, S112 - whatever it raises, the model does not take this size
            continue
        told = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
        yield Case(f"the smallest size, {told}", inputs, expected)
        return


def _cut(array: np.ndarray, shape: tuple[int, ...], cut: Callable[[int], int]) -> np.ndarray:
    ends = [cut(size) if wanted == -1 else size for size, wanted in zip(array.shape, shape, strict=True)]
    return np.ascontiguousarray(array[:, *map(slice, ends[1:])])


def answers(session: Session, inputs: Arrays) -> dict[str, np.ndarray]:
    """What a session answers, in memory of its own: an engine may hand out the same buffer again."""
    return {name: np.array(answer) for name, answer in session.infer(inputs).items()}
