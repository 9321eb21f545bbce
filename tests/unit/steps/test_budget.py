from __future__ import annotations

import time

import pytest

from slipway.errors import NotMeasuredError
from slipway.records import Validated, Verdict
from slipway.steps.budget import Budget, is_worth_timing, require_time, time_limit
from tests.unit.steps.records import ACCURACY, BUILT, MEASURED, VALIDATED, artifact


def test_a_step_may_begin_while_the_share_for_preparing_lasts() -> None:
    Budget(start=time.time() - 59, seconds=100).require_time("build")


def test_after_it_a_candidate_is_left_out_and_the_rest_is_for_timing() -> None:
    budget = Budget(start=time.time() - 61, seconds=100)

    with pytest.raises(NotMeasuredError, match="61 s of the budget of 100 s were spent before build") as told:
        budget.require_time("build")
    assert Verdict.of_error(told.value) is Verdict.INCONCLUSIVE
    assert 38 < budget.left_seconds() <= 39


def test_something_is_left_even_of_a_budget_that_is_spent() -> None:
    assert Budget(start=time.time() - 500, seconds=100).left_seconds() == 1.0


def test_without_a_budget_everything_may_begin() -> None:
    require_time(None, "build")


def validated(**accuracy: object) -> Validated:
    return VALIDATED.model_copy(update={"accuracy": MEASURED.model_copy(update=accuracy)})


@pytest.mark.parametrize("budget", [None, Budget(start=0.0, seconds=60.0)])
def test_a_candidate_that_was_given_up_is_not_timed(budget: Budget | None) -> None:
    assert not is_worth_timing(ACCURACY, validated(n=48, available=1000, drop_lower=0.3, drop_upper=1.0), budget)
    assert is_worth_timing(ACCURACY, validated(n=1000, available=1000), budget)


def test_one_that_failed_is_timed_for_the_table_but_not_under_a_budget() -> None:
    failed = validated(drop_lower=0.3, drop_upper=0.4)

    assert is_worth_timing(ACCURACY, failed, None)
    assert not is_worth_timing(ACCURACY, failed, Budget(start=0.0, seconds=60.0))


def test_what_is_left_is_for_timing_and_nothing_pushes_out_a_candidate_that_passes() -> None:
    budget = Budget(start=time.time() - 61, seconds=100)
    unsure = BUILT.model_copy(update={"artifact": artifact("d")})
    candidates = [(BUILT, VALIDATED), (unsure, validated(drop_lower=0.0, drop_upper=0.4))]

    limit = time_limit(budget, ACCURACY, "latency_p50_ms", candidates)

    assert limit is not None
    assert 38 < limit.seconds <= 39
    assert limit.promising == (BUILT.artifact.digest,)
    assert limit.halving
    for objective in ("throughput_per_s", "size_bytes"):
        by_another = time_limit(budget, ACCURACY, objective, candidates)
        assert by_another is not None
        assert not by_another.halving, "it ranks by latency"
    assert time_limit(None, ACCURACY, "latency_p50_ms", candidates) is None
