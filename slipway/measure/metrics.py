"""Metrics by name: what a model's outputs are worth against the target."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np

from slipway.errors import BadInputError, RejectedError, nearest
from slipway.measure.arrays import Array
from slipway.measure.formulas import (
    Indices,
    Kept,
    Scores,
    Statistic,
    absolute_errors,
    auroc,
    cosines,
    labels_and_answers,
    labels_and_scores,
    macro_f1,
    mean,
    root_of_mean,
    squared_errors,
    top_k_hits,
)

Kind: TypeAlias = Literal["binary", "mean", "set"]
KeepRule: TypeAlias = Callable[[Array, Array], Kept]
StatisticRule: TypeAlias = Callable[[Kept], Statistic]

KNOWN = ("top1", "topk:K", "macro_f1", "auroc", "mae", "rmse", "cosine", "package.module:function")


@dataclass(frozen=True)
class Metric:
    """A metric over outputs (n, ...) and a target of n entries.

    ``kind`` is "binary" (the mean of a 0/1 score per example), "mean" (of a real score per example) or "set" (defined
    on a set of examples only).
    """

    name: str
    kind: Kind
    higher_is_better: bool
    keep_rule: KeepRule
    statistic_rule: StatisticRule

    def kept(self, outputs: Array, target: Array) -> Kept:
        """All that the metric needs of some examples: arrays of n rows each, to be joined with those of other examples.

        Raises:
            BadInputError: the set is empty, shapes do not fit, or a label is none of the outputs' classes.
            RejectedError: outputs hold NaN; the number of such examples is told.
        """
        _check(self.name, outputs, target)
        return self.keep_rule(outputs, target)

    def scores(self, kept: Kept) -> Scores | None:
        """One score per example, shape (n,); None for a "set" metric."""
        return None if self.kind == "set" else cast("Scores", kept[0])

    def statistic(self, kept: Kept) -> Statistic:
        """The metric as a function of indices into the examples, with repeats."""
        return self.statistic_rule(kept)

    def value(self, kept: Kept) -> float:
        """The metric over all examples.

        Raises:
            BadInputError: it is undefined on them.
        """
        return self.statistic(kept)(np.arange(len(kept[0])))


def metric(name: str) -> Metric:
    """The metric called ``name``: one of `KNOWN`, K being a whole number from 1.

    ``package.module:function`` is called as function(outputs, target) -> float; higher is better. It may need anything:
    the first output and the target of all examples are held in memory for it, where other metrics keep a few numbers.

    Raises:
        BadInputError: there is no such metric; the nearest is named.
    """
    if name.startswith("topk:"):
        return Metric(name, "binary", True, partial(top_k_hits, k=_positive(name)), mean)
    if name in _NAMED:
        return _NAMED[name]
    if ":" in name:
        return Metric(name, "set", True, lambda outputs, target: (outputs, target), _own_rule(name))
    raise BadInputError(f"unknown metric {name!r}{nearest(name, KNOWN)}; known: {', '.join(KNOWN)}")


_NAMED = {
    "top1": Metric("top1", "binary", True, partial(top_k_hits, k=1), mean),
    "macro_f1": Metric("macro_f1", "set", True, labels_and_answers, macro_f1),
    "auroc": Metric("auroc", "set", True, labels_and_scores, auroc),
    "mae": Metric("mae", "mean", False, absolute_errors, mean),
    "rmse": Metric("rmse", "set", False, squared_errors, root_of_mean),
    "cosine": Metric("cosine", "mean", True, cosines, mean),
}


def source_of(name: str) -> str | None:
    """The sha256 of the file that an own metric, ``package.module:function``, is written in; None of all others.

    What that file imports does not count.
    """
    module_name, colon, _ = name.partition(":")
    if name.startswith("topk:") or name in _NAMED or not colon:
        return None
    try:
        found = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        return None  # `metric` tells what is wrong with it
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return None
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


def _positive(name: str) -> int:
    digits = name.removeprefix("topk:")
    if not digits.isascii() or not digits.isdigit() or int(digits) < 1:
        raise BadInputError(f"metric {name!r} needs a whole number from 1 after 'topk:'; write for example topk:5")
    return int(digits)


def _own_rule(name: str) -> StatisticRule:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInputError(f"metric {name!r} cannot be imported: {error}; is its package on PYTHONPATH?") from error
    if not callable(function):
        raise BadInputError(f"metric {name!r} is a {type(function).__name__}, not a function of (outputs, target)")

    def rule(kept: Kept) -> Statistic:
        outputs, target = kept

        def on(examples: Indices) -> float:
            try:
                value = float(function(outputs[examples], target[examples]))
            except Exception as error:
                raise BadInputError(
                    f"metric {name!r} failed: {type(error).__name__}: {error}; mend the function"
                ) from error
            if math.isnan(value):
                raise BadInputError(f"metric {name!r} gave NaN over {len(examples)} examples; mend the function")
            return value

        return on

    return rule


def _check(name: str, outputs: Array, target: Array) -> None:
    if len(target) == 0:
        raise BadInputError(f"metric {name!r} over an empty set is undefined; give test data")
    if len(outputs) != len(target):
        raise BadInputError(f"metric {name!r} needs one target per example, found {len(outputs)} and {len(target)}")
    if outputs.dtype.kind == "f":
        broken = int(np.isnan(outputs.reshape(len(outputs), -1)).any(axis=1).sum())
        if broken:
            raise RejectedError(f"outputs hold NaN in {broken} of {len(outputs)} examples; the candidate is broken")
