"""How often chance makes the canary's gates err, looked at all along, in seeded trials at their margins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from slipway.decisions.canary_gates import Levels, Mirrored, Tally, accuracy_gate, error_gate, latency_gate, slo_gate
from slipway.records import Reading, Verdict

TRIALS = 50
LEVELS = Levels(promote=0.2, roll_back=0.2)
Judge = Callable[[np.random.Generator], Iterator[Reading]]


def shares(judge: Judge) -> tuple[float, float]:
    """In which share of the trials a look passed, and in which one failed."""
    looks = [{reading.decision.verdict for reading in judge(np.random.default_rng(seed))} for seed in range(TRIALS)]
    passed, failed = (sum(verdict in seen for seen in looks) / TRIALS for verdict in (Verdict.PASS, Verdict.FAIL))
    return passed, failed


def at_most(share: float) -> float:
    """So often a rate of ``share`` may be found in the trials, three standard errors above it."""
    return share + 3 * math.sqrt(share * (1 - share) / TRIALS)


def bimodal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = np.where(rng.random(n) < 0.1, 30.0, 10.0) * rng.lognormal(0, 0.1, n)
    return drawn


def latencies(times: float) -> Judge:
    def judge(rng: np.random.Generator) -> Iterator[Reading]:
        champion, challenger = bimodal(rng, 4000), times * bimodal(rng, 4000)
        for n in range(200, 4001, 400):
            yield latency_gate(champion[:n], challenger[:n], 0.1, LEVELS)

    return judge


def exceeding(share: float) -> Judge:
    def judge(rng: np.random.Generator) -> Iterator[Reading]:
        over = np.where(rng.random(6000) < share, 60.0, 40.0)
        for n in range(200, 6001, 400):
            yield slo_gate(over[:n], 50.0, LEVELS)

    return judge


def failing(champion: float, challenger: float) -> Judge:
    def judge(rng: np.random.Generator) -> Iterator[Reading]:
        errors = np.cumsum(rng.random((2, 4000)) < [[champion], [challenger]], axis=1)
        for n in range(100, 4001, 100):
            beside, own = (Tally(n, int(counted[n - 1])) for counted in errors)
            yield error_gate(beside, own, 0.01, LEVELS)

    return judge


def losing(lost: float, labelled: float = 1.0) -> Judge:
    """Three in a hundred gain, and as many and ``lost`` more lose; each has a label with this probability."""

    def judge(rng: np.random.Generator) -> Iterator[Reading]:
        drawn, has_label = rng.random(4000), rng.random(4000) < labelled
        worse, better = drawn < 0.03 + lost, drawn > 0.97
        for n in range(200, 4001, 400):
            differed, own = (worse | better)[:n], has_label[:n]
            gained, less = int(np.sum(better[:n] & own)), int(np.sum(worse[:n] & own))
            yield accuracy_gate(
                Mirrored(n, int(differed.sum()), int(own.sum()), gained, less, gained + less, 0), 0.02, LEVELS
            )

    return judge


@pytest.mark.parametrize(
    "judge",
    [
        latencies(1.1),
        exceeding(0.01),
        failing(0.0, 0.01),
        failing(0.02, 0.03),
        losing(0.02),
        losing(0.02, labelled=0.9),
    ],
)
def test_at_the_margin_a_gate_passes_and_fails_as_rarely_as_told(judge: Judge) -> None:
    passed, failed = shares(judge)
    assert passed <= at_most(LEVELS.promote)
    assert failed <= at_most(LEVELS.roll_back)


@pytest.mark.parametrize("judge", [latencies(1.0), exceeding(0.002), failing(0.0, 0.001), losing(0.0)])
def test_a_challenger_well_within_the_margin_passes_and_does_not_fail(judge: Judge) -> None:
    passed, failed = shares(judge)
    assert passed >= 0.95
    assert failed <= at_most(0.01)


@pytest.mark.parametrize("judge", [latencies(1.4), exceeding(0.04), failing(0.0, 0.05), losing(0.06, labelled=0.9)])
def test_a_challenger_well_beyond_the_margin_fails_and_does_not_pass(judge: Judge) -> None:
    passed, failed = shares(judge)
    assert failed >= 0.95
    assert passed <= at_most(0.01)


def test_a_test_made_for_one_look_errs_far_more_often() -> None:
    """A z test of two error rates at 20%, at each of the same looks of two equal arms."""

    def wrongly(rng: np.random.Generator) -> bool:
        errors = np.cumsum(rng.random((2, 4000)) < 0.02, axis=1)[:, 99::100]
        n = np.arange(100, 4001, 100)
        pooled = errors.sum(axis=0) / (2 * n)
        spread = np.sqrt(np.maximum(2 * pooled * (1 - pooled) / n, 1e-12))
        return bool(np.any(np.abs(errors[1] - errors[0]) / n > 1.282 * spread))

    assert sum(wrongly(np.random.default_rng(seed)) for seed in range(TRIALS)) / TRIALS > 0.4
