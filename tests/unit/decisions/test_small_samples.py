"""A bootstrap knows nothing of what it has not seen: few examples of which none changed prove no small drop."""

from __future__ import annotations

import math

import pytest

from slipway.config import AccuracyParams
from slipway.decisions.gates import accuracy_gate
from slipway.decisions.paired import BOOTSTRAP
from slipway.records import Verdict
from tests.unit.decisions.builders import bounded


def unchanged(n: int, metric: str = "macro_f1") -> Verdict:
    accuracy = bounded(0.0, 0.0, 0.0, metric=metric, n=n).model_copy(update={"method": BOOTSTRAP})
    return accuracy_gate(AccuracyParams(metric=metric, max_drop=0.01), accuracy).verdict


@pytest.mark.parametrize(
    ("n", "expected"), [(2, Verdict.INCONCLUSIVE), (298, Verdict.INCONCLUSIVE), (299, Verdict.PASS)]
)
def test_no_change_among_few_examples_decides_nothing(n: int, expected: Verdict) -> None:
    """Of 298, one in a hundred could all be missed with a probability of 0.99 ** 298 = 0.0500..., of 299 with less."""
    assert (0.99**n < 0.05) == (expected is Verdict.PASS)
    assert unchanged(n) is expected


def test_the_reason_tells_how_many_would_do() -> None:
    accuracy = bounded(0.0, 0.0, 0.0, metric="auroc", n=20).model_copy(update={"method": BOOTSTRAP})
    (reason,) = accuracy_gate(AccuracyParams(metric="auroc", max_drop=0.02), accuracy).reasons

    assert (
        f"20 examples cannot show a drop of 0.02: {math.ceil(math.log(0.05) / math.log(0.98))} or more would" in reason
    )


def test_a_drop_of_nothing_at_all_cannot_be_shown_by_any_number() -> None:
    accuracy = bounded(0.0, 0.0, 0.0, metric="macro_f1", n=1_000_000).model_copy(update={"method": BOOTSTRAP})

    assert accuracy_gate(AccuracyParams(metric="macro_f1", max_drop=0), accuracy).verdict is Verdict.INCONCLUSIVE


def test_errors_that_are_no_shares_have_no_such_number() -> None:
    assert unchanged(20, "mae") is Verdict.PASS
