"""How often chance makes the accuracy gate err: in 2,000 seeded trials of each candidate, exactly where possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from slipway.config import AccuracyParams
from slipway.decisions.gates import accuracy_gate
from slipway.decisions.paired import bca_bounds, tango_bounds
from slipway.records import Verdict
from tests.unit.decisions.builders import bounded, counted

TRIALS = 2000
NOISE = 0.015  # three standard errors of a share of 5% over 2,000 trials
POLICY = AccuracyParams(metric="top1", max_drop=0.01, confidence=0.95)
Verdicts = dict[Verdict, float]


def shares(verdicts: Iterable[tuple[Verdict, int]]) -> Verdicts:
    times = Counter[Verdict]()
    for verdict, often in verdicts:
        times[verdict] += often
    return {verdict: times[verdict] / times.total() for verdict in Verdict}


def judged(n: int, lost: float, gained: float, neither: float = 0.05, policy: AccuracyParams = POLICY) -> Verdicts:
    """Share of each verdict over candidates that lose and gain each example with these probabilities."""
    cells = [lost, gained, neither, 1 - lost - gained - neither]
    trials = Counter(tuple(map(int, row)) for row in np.random.default_rng(7).multinomial(n, cells, size=TRIALS))
    return shares(
        (accuracy_gate(policy, counted(n, b, c, neither=d)).verdict, times) for (b, c, d, _), times in trials.items()
    )


@pytest.mark.parametrize("n", [200, 500, 1000, 2000, 5000])
@pytest.mark.parametrize("gained", [0.0, 0.005, 0.03, 0.1])
def test_a_candidate_exactly_at_the_margin_passes_in_at_most_five_percent(n: int, gained: float) -> None:
    assert judged(n, 0.01 + gained, gained)[Verdict.PASS] <= 0.05 + NOISE


@pytest.mark.parametrize("n", [200, 1000, 5000])
@pytest.mark.parametrize("gained", [0.03, 0.1])
def test_a_candidate_exactly_at_the_margin_fails_in_at_most_five_percent(n: int, gained: float) -> None:
    assert judged(n, 0.01 + gained, gained)[Verdict.FAIL] <= 0.05 + NOISE


@pytest.mark.parametrize(("n", "lost"), [(1000, 0.0), (2000, 0.005), (5000, 0.02)])
def test_a_clearly_equal_candidate_passes(n: int, lost: float) -> None:
    assert judged(n, lost, lost)[Verdict.PASS] >= 0.95


@pytest.mark.parametrize(("n", "lost", "gained"), [(200, 0.2, 0.01), (1000, 0.07, 0.01), (2000, 0.05, 0.01)])
def test_a_clearly_worse_candidate_fails_and_never_passes(n: int, lost: float, gained: float) -> None:
    found = judged(n, lost, gained)
    assert found[Verdict.FAIL] >= 0.99
    assert found[Verdict.PASS] == 0


@pytest.mark.parametrize(("n", "lost", "gained"), [(20, 0.0, 0.0), (100, 0.002, 0.002), (150, 0.01, 0.01)])
def test_too_few_examples_are_inconclusive(n: int, lost: float, gained: float) -> None:
    assert judged(n, lost, gained)[Verdict.INCONCLUSIVE] >= 0.85


def test_more_examples_turn_inconclusive_into_pass_or_fail() -> None:
    open_shares = [judged(n, 0.02, 0.015)[Verdict.INCONCLUSIVE] for n in (500, 2000, 8000)]
    assert open_shares == sorted(open_shares, reverse=True)
    assert open_shares[0] > 0.7
    assert open_shares[-1] < 0.3


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_the_error_rate_follows_the_confidence(confidence: float) -> None:
    """Bounds of another level than the policy's would show here."""
    policy = POLICY.model_copy(update={"confidence": confidence})
    trials = np.random.default_rng(3).multinomial(2000, [0.03, 0.02, 0.95], size=TRIALS)
    passed = sum(
        accuracy_gate(policy, counted(2000, int(b), int(c), confidence)).verdict == "PASS" for b, c, _ in trials
    )
    assert passed / TRIALS == pytest.approx(1 - confidence, abs=3 * (confidence * (1 - confidence) / TRIALS) ** 0.5)


@pytest.mark.parametrize(("reference", "min_ratio"), [(0.9, 0.99), (0.6, 0.99), (0.9, 0.999)])
def test_a_candidate_exactly_at_min_ratio_passes_and_fails_as_rarely(reference: float, min_ratio: float) -> None:
    """The reference's value is taken as known, but varies from one test set to the next as much as it does here."""
    policy = AccuracyParams(max_drop=0.5, min_ratio=min_ratio)
    gained = 0.03
    lost = gained + (1 - min_ratio) * reference
    found = judged(2000, lost, gained, neither=1 - reference - gained, policy=policy)
    assert found[Verdict.PASS] <= 0.05 + NOISE
    assert found[Verdict.FAIL] <= 0.05 + NOISE


@pytest.mark.parametrize("n", [134, 268, 300, 500, 1000, 2000, 3000])
@pytest.mark.parametrize("max_drop", [0.005, 0.01, 0.02])
def test_where_the_candidate_only_loses_the_exact_error_rates_are_bounded(n: int, max_drop: float) -> None:
    """No simulation: binomial probabilities. The worst n for a PASS is the first at which no loss at all passes."""
    bounds = [tango_bounds(n, lost, 0, 0.95) for lost in range(round(n * max_drop * 4) + 10)]
    passing = sum(upper <= max_drop for _, upper in bounds)
    failing_from = next(lost for lost, (lower, _) in enumerate(bounds) if lower > max_drop)
    assert stats.binom.cdf(passing - 1, n, max_drop) <= 0.0685
    assert stats.binom.sf(failing_from - 1, n, max_drop) <= 0.095


def bootstrapped(
    drops_of: Callable[[np.random.Generator], NDArray[np.float64]], max_drop: float, trials: int = TRIALS
) -> Verdicts:
    """Share of each verdict over candidates whose per-example drops are drawn so."""
    rng, policy = np.random.default_rng(13), AccuracyParams(metric="mae", max_drop=max_drop)

    def verdict() -> Verdict:
        drops = drops_of(rng)
        accuracy = bounded(float(drops.mean()), *bca_bounds(drops, 0.95), metric="mae", n=len(drops))
        return accuracy_gate(policy, accuracy).verdict

    return shares((verdict(), 1) for _ in range(trials))


def test_the_bootstrap_gate_errs_as_rarely_on_absolute_errors_at_the_margin() -> None:
    """Reference and candidate err alike, but for the candidate's own noise, which costs 0.0333 on average."""

    def extra_error(rng: np.random.Generator, n: int = 60) -> NDArray[np.float64]:
        of_reference = rng.normal(size=n)
        return np.abs(of_reference + rng.normal(scale=0.3, size=n)) - np.abs(of_reference)

    cost = np.sqrt(2 / np.pi) * (np.sqrt(1.09) - 1)  # the mean of |N(0, s^2)| is s sqrt(2 / pi)
    found = bootstrapped(extra_error, cost)
    assert found[Verdict.PASS] <= 0.05 + NOISE
    assert found[Verdict.FAIL] <= 0.05 + NOISE


def test_the_bootstrap_gate_passes_the_equal_and_fails_the_worse() -> None:
    def equal(rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.normal(0, 0.05, size=30)

    def worse(rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.normal(0.1, 0.05, size=30)

    assert bootstrapped(equal, 0.05, trials=500)[Verdict.PASS] >= 0.99
    assert bootstrapped(worse, 0.05, trials=500)[Verdict.FAIL] >= 0.99
