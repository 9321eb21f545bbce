from __future__ import annotations

import math

import numpy as np
import pytest

from slipway.decisions.drift import (
    DRIFTED,
    LEAST_EXAMPLES,
    STABLE,
    Observed,
    chance_bound,
    drift,
    input_drift,
    psi,
    shift,
)
from slipway.records import InputSummary, Verdict


def expected(*shares: float, name: str = "x", nonfinite: float = 0.0, examples: int = 1000) -> InputSummary:
    edges = tuple(map(float, range(len(shares) - 1)))
    return InputSummary(name=name, edges=edges, shares=shares, nonfinite=nonfinite, n=256_000, examples=examples)


def seen(*counts: int, nonfinite: int = 0, examples: int = 1000) -> Observed:
    return Observed(np.array(counts), nonfinite, examples)


EVEN = expected(*[0.25] * 4)


def test_the_same_shares_have_an_index_of_0() -> None:
    assert psi(EVEN, seen(50, 50, 50, 50)) == pytest.approx(0, abs=1e-3)
    assert psi(expected(0.5, 0.5, nonfinite=0.2), seen(40, 40, nonfinite=20)) == pytest.approx(0, abs=1e-12)


def test_the_index_is_the_sum_of_the_formula() -> None:
    wanted = (0.4 - 0.5) * math.log(0.4 / 0.5) + (0.6 - 0.5) * math.log(0.6 / 0.5)

    assert psi(expected(0.5, 0.5), seen(40, 60)) == pytest.approx(wanted)


def test_an_empty_bin_is_no_infinity() -> None:
    assert psi(expected(0.5, 0.5), seen(100, 0)) == pytest.approx(0.5 * math.log(2) + 0.4999 * math.log(5000), rel=1e-3)
    assert 0 < psi(expected(1.0, 0.0), seen(99, 1)) < STABLE, "one value in a hundred was never seen before"


def test_values_that_are_not_finite_are_drift() -> None:
    assert psi(EVEN, seen(45, 45, 45, 45, nonfinite=20)) > DRIFTED


def test_of_the_same_distribution_the_bound_is_rarely_exceeded_and_not_far_away() -> None:
    """As Yurdakul and Naranjo have it: 1 of 1000 samples; here of independent values, one per example."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(2000):
        before, now = (rng.multinomial(count, np.full(10, 0.1)) for count in (500, 300))
        one, other = expected(*(before / 500), examples=500), seen(*now, examples=300)
        ratios.append(psi(one, other) / chance_bound(one, other))

    assert np.mean(np.array(ratios) > 1) < 0.006
    assert np.quantile(ratios, 0.999) > 0.8


@pytest.mark.parametrize(
    ("counts", "verdict", "said"),
    [
        ((250, 250, 250, 250), Verdict.PASS, "stable, at most 0.1"),
        ((400, 200, 200, 200), Verdict.PASS, "moved somewhat, at most 0.25"),
        ((700, 100, 100, 100), Verdict.FAIL, "PSI 0.876 over 1000 examples: drifted, above 0.25"),
    ],
)
def test_the_usual_bounds_decide(counts: tuple[int, ...], verdict: Verdict, said: str) -> None:
    decision = input_drift("x", shift(EVEN, seen(*counts)))

    assert decision.verdict is verdict
    assert said in decision.reasons[0]


def test_a_few_examples_decide_nothing() -> None:
    calibrated_on_10 = expected(*[0.25] * 4, examples=10)
    early = input_drift("x", shift(EVEN, seen(1000, 0, 0, 0, examples=LEAST_EXAMPLES - 1)))
    few = input_drift("x", shift(calibrated_on_10, seen(550, 150, 150, 150)))

    assert early.verdict is few.verdict is Verdict.INCONCLUSIVE
    assert "(199 of 200)" in early.reasons[0]
    assert "above 0.25, and so few examples may reach 1.643 by chance" in few.reasons[0]
    assert input_drift("x", shift(calibrated_on_10, seen(1000, 0, 0, 0))).verdict is Verdict.FAIL


def test_the_worst_input_decides_for_the_model() -> None:
    half = expected(0.5, 0.5)
    same, other, early = (shift(half, one) for one in (seen(500, 500), seen(950, 50), seen(5, 5, examples=10)))

    assert drift({"a": same, "b": same}).verdict is Verdict.PASS
    found = drift({"a": same, "b": other, "c": early})
    assert (found.verdict, len(found.reasons)) == (Verdict.FAIL, 1)
    assert found.reasons[0].startswith("input b: PSI")
    assert drift({"a": same, "c": early}).verdict is Verdict.INCONCLUSIVE
    assert drift({}).verdict is Verdict.INCONCLUSIVE
