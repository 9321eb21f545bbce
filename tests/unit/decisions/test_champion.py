"""What stands beside a champion: no release puts a slower engine in its place because the champion had a bad day."""

from __future__ import annotations

import pytest

from slipway.decisions.choice import choose, hold_against
from slipway.decisions.gates import regression_gate
from slipway.records import Evidence, Interval, Verdict
from tests.unit.decisions.builders import evidence, interval, timing, verdict

UNSURE = verdict(Verdict.INCONCLUSIVE, "timing: latency never settled")


def measured(name: str, speedup: Interval, **changes: object) -> Evidence:
    return evidence(name, timed=timing(speedup=speedup), **changes)  # type: ignore[arg-type]


def test_a_champion_that_could_not_be_timed_leaves_the_regression_open() -> None:
    gate = regression_gate(0.05, None, "worker champion died")

    assert gate is not None
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert "worker champion died" in gate.reasons[0]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (interval(2.0, 1.95, 2.05), Verdict.FAIL),
        (interval(8.8, 8.4, 9.2), Verdict.INCONCLUSIVE),
        (interval(12.0, 11.8, 12.2), Verdict.PASS),
    ],
)
def test_what_takes_the_place_of_a_champion_that_did_not_pass_is_not_much_slower(
    other: Interval, expected: Verdict
) -> None:
    candidates = [measured("champion", interval(9.0, 8.8, 9.2), decision=UNSURE), measured("other", other)]

    held = hold_against("champion", choose("latency_p50_ms", candidates), candidates, 0.05)

    assert held.decision.verdict is expected
    assert held.chosen == ("other" if expected is Verdict.PASS else None)


def test_a_champion_that_was_not_timed_is_not_replaced_unseen() -> None:
    broken = evidence("champion", decision=verdict(Verdict.ERROR, "benchmark: worker died")).model_copy(
        update={"timing": None}
    )
    candidates = [broken, measured("other", interval(2.0, 1.9, 2.1))]

    held = hold_against("champion", choose("latency_p50_ms", candidates), candidates, 0.05)

    assert (held.decision.verdict, held.chosen) == (Verdict.INCONCLUSIVE, None)
    assert "worker died" in held.decision.reasons[0]


@pytest.mark.parametrize("champion", [None, "elsewhere", "best"])
def test_nothing_changes_without_a_champion_or_where_it_is_chosen_again(champion: str | None) -> None:
    candidates = [measured("best", interval(9.0, 8.8, 9.2)), measured("other", interval(2.0, 1.9, 2.1))]
    choice = choose("latency_p50_ms", candidates)

    assert hold_against(champion, choice, candidates, 0.05) == choice
