"""What every splitter does, whatever shares the traffic."""

from __future__ import annotations

import math
import time

import pytest
from scipy.stats import binom

from slipway.errors import BadInputError, InfrastructureError
from tests.contract.splitters.conftest import Traffic
from tests.contract.splitters.edge import wait_for

REQUESTS = 400


def bounds(requests: int, percent: float) -> tuple[float, float]:
    """Between what the challenger's requests lie, but in one of 10^9 runs."""
    low, high = binom.interval(1 - 1e-9, requests, percent / 100)
    return float(low), float(high)


def test_at_first_everything_goes_to_the_champion(traffic: Traffic) -> None:
    assert traffic.splitter.share() == 0
    assert traffic.ask(50) == 0


@pytest.mark.parametrize("percent", [1, 25, 50])
def test_a_share_that_was_set_is_told_and_obeyed(traffic: Traffic, percent: int) -> None:
    traffic.splitter.set_share(percent)

    assert traffic.splitter.share() == pytest.approx(percent)
    low, high = bounds(REQUESTS, percent)
    assert low <= traffic.ask(REQUESTS) <= high


def test_zero_and_a_hundred_are_exact(traffic: Traffic) -> None:
    traffic.splitter.set_share(100)
    assert traffic.ask(100) == 100

    traffic.splitter.set_share(0)
    assert traffic.splitter.share() == 0
    assert traffic.ask(100) == 0


def test_setting_a_share_again_changes_nothing(traffic: Traffic) -> None:
    for _ in range(3):
        traffic.splitter.set_share(25)

    assert traffic.splitter.share() == pytest.approx(25)


def test_after_a_rollback_no_request_goes_to_the_challenger(traffic: Traffic) -> None:
    traffic.splitter.set_share(50)
    for _ in range(2):
        traffic.splitter.rollback()

        assert traffic.splitter.share() == 0
        assert traffic.ask(100) == 0


def test_a_share_that_is_set_ends_a_rollback(traffic: Traffic) -> None:
    traffic.splitter.set_share(50)
    traffic.splitter.rollback()
    traffic.splitter.set_share(50)

    assert traffic.splitter.share() == pytest.approx(50)
    low, high = bounds(REQUESTS, 50)
    assert low <= traffic.ask(REQUESTS) <= high


@pytest.mark.parametrize("percent", [-1, 100.5, math.nan, math.inf])
def test_what_is_no_share_is_refused_and_changes_nothing(traffic: Traffic, percent: float) -> None:
    traffic.splitter.set_share(25)
    with pytest.raises(BadInputError, match="give one from 0 to 100"):
        traffic.splitter.set_share(percent)

    assert traffic.splitter.share() == pytest.approx(25)


def test_the_observed_share_is_of_the_requests_since_then(traffic: Traffic) -> None:
    begun_s = time.time()
    assert traffic.splitter.observed_share(begun_s) is None

    traffic.ask(100)
    wait_for(lambda: traffic.splitter.observed_share(begun_s) is not None)
    assert traffic.splitter.observed_share(begun_s) == 0
    time.sleep(0.01)

    traffic.splitter.set_share(100)
    later_s = time.time()
    traffic.ask(100)
    wait_for(lambda: traffic.splitter.observed_share(begun_s) == 50)
    assert traffic.splitter.observed_share(later_s) == 100
    assert traffic.splitter.observed_share(time.time() + 60) is None


def test_what_cannot_be_reached_is_told_and_not_taken_for_a_share(traffic: Traffic) -> None:
    traffic.splitter.set_share(25)
    traffic.cut()

    for call in (traffic.splitter.rollback, traffic.splitter.share, lambda: traffic.splitter.set_share(50)):
        with pytest.raises(InfrastructureError):
            call()
