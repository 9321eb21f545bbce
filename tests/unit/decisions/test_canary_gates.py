"""Each gate of the canary: what passes, what rolls back, and what stays open."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slipway.decisions.canary_gates import (
    Levels,
    Mirrored,
    Tally,
    accuracy_gate,
    drift_gate,
    error_gate,
    latency_gate,
    slo_gate,
)
from slipway.records import Verdict
from tests.unit.decisions.builders import verdict

LEVELS = Levels(promote=0.05, roll_back=0.05 / 12)
PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def bimodal(n: int, seed: int, times: float = 1.0) -> NDArray[np.float64]:
    """Nine of ten about 10 ms, one of ten about 30 ms; in milliseconds."""
    rng = np.random.default_rng(seed)
    found: NDArray[np.float64] = np.where(rng.random(n) < 0.1, 30.0, 10.0) * rng.lognormal(0, 0.1, n) * times
    return found


def mirrored(
    requests: int = 0,
    differed: int | None = None,
    labelled: int = 0,
    gained: int = 0,
    lost: int = 0,
    settled: int | None = None,
    missing: int = 0,
) -> Mirrored:
    return Mirrored(requests, differed, labelled, gained, lost, gained + lost if settled is None else settled, missing)


@pytest.mark.parametrize(
    ("times", "n", "expected"),
    [
        (1.0, 10_000, PASS),
        (0.7, 10_000, PASS),
        (1.0, 300, OPEN),
        (1.1, 10_000, OPEN),
        (1.5, 10_000, FAIL),
        (2, 2000, FAIL),
    ],
)
def test_the_p95_is_held_against_the_champions(times: float, n: int, expected: Verdict) -> None:
    reading = latency_gate(bimodal(n, 1), bimodal(n, 2, times), 0.1, LEVELS)
    assert reading.decision.verdict is expected


def test_a_tail_that_the_median_does_not_show_rolls_back() -> None:
    champion, challenger = bimodal(3000, 1), bimodal(3000, 2)
    worse = np.where(challenger > 20, challenger * 2, challenger)
    assert np.median(worse) == np.median(challenger)
    assert latency_gate(champion, worse, 0.1, LEVELS).decision.verdict is FAIL


def test_the_latency_reading_tells_the_bounds_it_was_decided_on() -> None:
    reading = latency_gate(bimodal(5000, 1), bimodal(5000, 2), 0.1, LEVELS)
    figures = reading.figures
    assert figures["challenger_upper_ms"] <= 1.1 * figures["champion_lower_ms"]  # type: ignore[operator]
    assert figures["champion_n"] == figures["challenger_n"] == 5000
    assert "is within 1.1 times the champion's" in reading.decision.reasons[0]


@pytest.mark.parametrize(("champion", "challenger"), [(0, 0), (1000, 0), (0, 1000), (1, 1), (100, 100)])
def test_too_few_latencies_conclude_nothing(champion: int, challenger: int) -> None:
    reading = latency_gate(np.full(champion, 1.0), np.full(challenger, 100.0), 0.1, LEVELS)
    assert reading.decision.verdict is OPEN
    assert any("no answer" in reason or "conclude nothing" in reason for reason in reading.decision.reasons)
    assert not any(isinstance(figure, float) and math.isinf(figure) for figure in reading.figures.values())


def test_equal_latencies_without_any_spread_pass() -> None:
    assert latency_gate(np.full(500, 5.0), np.full(500, 5.0), 0.1, LEVELS).decision.verdict is PASS
    assert latency_gate(np.full(500, 5.0), np.full(500, 5.6), 0.1, LEVELS).decision.verdict is FAIL


def test_latencies_in_bursts_are_counted_once_a_burst_and_that_is_told() -> None:
    rng = np.random.default_rng(1)
    slow = np.repeat(rng.random(400) < 0.1, 16)
    champion = np.where(slow, 30.0, 10.0) * rng.lognormal(0, 0.1, 6400)
    reading = latency_gate(champion, bimodal(6400, 2), 0.1, LEVELS)
    assert reading.figures["champion_block"] >= 4  # type: ignore[operator]
    assert any("champion's latencies depend on those before" in reason for reason in reading.decision.reasons)


@given(st.integers(0, 3), st.integers(200, 1500), st.floats(0.3, 3), st.floats(1, 2))
def test_a_slower_challenger_is_never_judged_better(seed: int, n: int, times: float, slower: float) -> None:
    order = [FAIL, OPEN, PASS]
    champion = bimodal(n, seed)
    found = [
        order.index(latency_gate(champion, bimodal(n, 9, own), 0.1, LEVELS).decision.verdict)
        for own in (times, times * slower)
    ]
    assert found[1] <= found[0]


@given(st.integers(0, 3), st.integers(0, 1500), st.floats(0.5, 2))
def test_a_stricter_level_never_concludes_more(seed: int, n: int, times: float) -> None:
    champion, challenger = bimodal(n, seed), bimodal(n, 9, times)
    strict = latency_gate(champion, challenger, 0.1, Levels(1e-6, 1e-6)).decision.verdict
    assert strict in {OPEN, latency_gate(champion, challenger, 0.1, LEVELS).decision.verdict}


@pytest.mark.parametrize(
    ("over", "n", "expected"), [(0, 1000, PASS), (2, 3000, PASS), (0, 100, OPEN), (20, 2000, OPEN), (60, 2000, FAIL)]
)
def test_over_one_percent_beyond_the_slo_roll_back_and_under_it_pass(over: int, n: int, expected: Verdict) -> None:
    latencies = np.random.default_rng(1).permutation(np.repeat([60.0, 50.0], [over, n - over]))
    assert slo_gate(latencies, 50, LEVELS).decision.verdict is expected


def test_without_an_answer_the_slo_is_open() -> None:
    assert slo_gate(np.array([]), 50, LEVELS).decision.verdict is OPEN


@pytest.mark.parametrize(
    ("champion", "challenger", "expected"),
    [
        (Tally(19_800, 0), Tally(3, 3), FAIL),
        (Tally(19_800, 0), Tally(200, 10), FAIL),
        (Tally(300, 300), Tally(300, 300), OPEN),
        (Tally(20_000, 20_000), Tally(20_000, 20_000), PASS),
        (Tally(3000, 0), Tally(3000, 0), PASS),
        (Tally(3000, 0), Tally(3000, 60), FAIL),
        (Tally(3000, 0), Tally(3000, 15), OPEN),
        (Tally(0, 0), Tally(0, 0), OPEN),
        (Tally(100_000, 0), Tally(0, 0), OPEN),
    ],
)
def test_errors_beyond_the_margin_roll_back_and_within_it_pass(
    champion: Tally, challenger: Tally, expected: Verdict
) -> None:
    assert error_gate(champion, challenger, 0.005, LEVELS).decision.verdict is expected


@pytest.mark.parametrize(("champion", "most"), [(19_800, 3), (3_800, 3), (600, 4), (200, 5)])
def test_a_challenger_that_answers_nothing_is_rolled_back_within_its_first_requests(champion: int, most: int) -> None:
    assert error_gate(Tally(champion, 0), Tally(most, most), 0.005, LEVELS).decision.verdict is FAIL


def test_a_death_after_thousands_of_answers_is_noticed_within_a_few_requests() -> None:
    """By the counts alone it took 68 at the margin of 0.5%."""
    outcomes = np.repeat([0, 1], [5000, 6]).astype(np.int8)
    champion, challenger = Tally(5000, 0), Tally(5006, 6)
    assert error_gate(champion, challenger, 0.005, LEVELS).decision.verdict is not FAIL
    reading = error_gate(champion, challenger, 0.005, LEVELS, outcomes)
    assert reading.decision.verdict is FAIL
    assert reading.decision.reasons == (
        "6 of 5,006 requests failed, and of the latest more than the champion's 0 of 5,000 and 0.50%",
    )


@pytest.mark.parametrize(
    ("champion", "challenger", "expected"),
    [
        (Tally(3000, 0, 0), Tally(2850, 0, 150), FAIL),
        (Tally(3000, 0, 0), Tally(0, 0, 20), FAIL),
        (Tally(2970, 0, 30), Tally(2970, 0, 30), PASS),
        (Tally(3000, 0, 0), Tally(2970, 0, 30), OPEN),
        (Tally(2700, 0, 300), Tally(2900, 0, 100), PASS),
    ],
)
def test_an_engine_that_refuses_what_the_champion_takes_is_not_promoted(
    champion: Tally, challenger: Tally, expected: Verdict
) -> None:
    """As one built for a batch of one; clients' mistakes come to both arms alike."""
    assert error_gate(champion, challenger, 0.005, LEVELS).decision.verdict is expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.data())
def test_more_errors_are_never_judged_better(champion: int, challenger: int, data: st.DataObject) -> None:
    order = [FAIL, OPEN, PASS]
    beside = Tally(champion, data.draw(st.integers(0, champion)))
    errors = data.draw(st.integers(0, challenger - 1))
    fewer, more = (
        order.index(error_gate(beside, Tally(challenger, own), 0.005, LEVELS).decision.verdict)
        for own in (errors, errors + 1)
    )
    assert more <= fewer


def test_without_labels_few_disagreements_pass() -> None:
    reading = accuracy_gate(mirrored(requests=3000, differed=6), 0.01, LEVELS)
    assert reading.decision.verdict is PASS
    assert "6 of 3,000 answers differ" in reading.decision.reasons[0]


def test_without_labels_many_disagreements_conclude_nothing() -> None:
    """The challenger may be right wherever they differ."""
    assert accuracy_gate(mirrored(requests=3000, differed=1500), 0.01, LEVELS).decision.verdict is OPEN


def test_labels_of_the_disagreements_alone_pass_what_gains_as_much_as_it_loses() -> None:
    unlabelled = mirrored(requests=5000, differed=100)
    labelled = mirrored(requests=5000, differed=100, labelled=100, gained=45, lost=45, settled=100)
    assert accuracy_gate(unlabelled, 0.01, LEVELS).decision.verdict is OPEN
    assert accuracy_gate(labelled, 0.01, LEVELS).decision.verdict is PASS


def test_losses_that_labels_tell_of_roll_back_though_a_tenth_is_missing() -> None:
    """Four points lost and one gained."""
    seen = mirrored(requests=3000, differed=150, labelled=2700, gained=27, lost=108, missing=300)
    assert accuracy_gate(seen, 0.01, LEVELS).decision.verdict is FAIL


def test_missing_labels_are_never_counted_as_right() -> None:
    """Where only those of lost answers are missing, what is left looks equal, and must not pass."""
    looks_equal = mirrored(requests=5000, differed=100, labelled=4900, gained=20, lost=20, settled=40, missing=60)
    assert accuracy_gate(looks_equal, 0.01, LEVELS).decision.verdict is not PASS
    uncompared = mirrored(requests=4900, labelled=4900, gained=20, lost=20, missing=100)
    assert accuracy_gate(uncompared, 0.01, LEVELS).decision.verdict is not PASS
    complete = mirrored(requests=4900, labelled=4900, gained=20, lost=20)
    assert accuracy_gate(complete, 0.01, LEVELS).decision.verdict is PASS


def test_without_any_evidence_accuracy_is_open_and_tells_what_to_do() -> None:
    reading = accuracy_gate(mirrored(), 0.01, LEVELS)
    assert reading.decision.verdict is OPEN
    assert "set canary.shadow" in reading.decision.reasons[0]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.integers(0, 5000))
def test_another_missing_label_never_helps_to_pass(gained: int, lost: int, missing: int, same: int) -> None:
    labelled = gained + lost + same
    figures = [
        accuracy_gate(mirrored(labelled, None, labelled, gained, lost, missing=own), 0.01, LEVELS).figures["loss_upper"]
        for own in (missing, missing + 1)
    ]
    assert figures[0] <= figures[1] + 1e-9  # type: ignore[operator]


@pytest.mark.parametrize(
    ("found", "expected"), [("PASS", PASS), ("FAIL", OPEN), ("INCONCLUSIVE", OPEN), ("ERROR", OPEN)]
)
def test_drift_never_rolls_back(found: str, expected: Verdict) -> None:
    assert drift_gate(verdict(Verdict(found), "psi 0.3")).decision.verdict is expected
