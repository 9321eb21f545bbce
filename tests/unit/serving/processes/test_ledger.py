"""What the supervising process knows of engines: what a new process is told, and which files go."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.serving.http.limits import Limits
from slipway.serving.processes.ledger import Ledger
from tests.fakes.multiplier import NAME, local


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Version 1 serves, version 2 is to take its place."""
    ledger = Ledger(tmp_path)
    ledger.begin(local(tmp_path, 1, 1))
    ledger.want(local(tmp_path, 2, 2))
    return ledger


def versions(ledger: Ledger) -> tuple[list[str], list[str]]:
    """Which versions a new process is told to serve, and then to swap in."""
    return [one.version for one in ledger.start(Limits(), 0).engines], [one.version for one in ledger.wanted]


def folders(ledger: Ledger) -> set[str]:
    """The folders that are there."""
    return {folder.name for folder in ledger.folder.iterdir()}


def test_what_took_over_is_what_a_new_process_serves_and_the_former_files_go_once_it_is_closed(ledger: Ledger) -> None:
    assert versions(ledger) == (["1"], ["2"])
    ledger.refuse(NAME, "version 9 is refused")
    ledger.opened(2)
    assert versions(ledger) == (["2"], [])
    assert ledger.start(Limits(), 0).refusals == {}
    assert folders(ledger) == {"1", "2"}
    ledger.closed(1)
    assert folders(ledger) == {"2"}


def test_what_was_refused_is_wanted_no_more_and_a_new_process_tells_why(ledger: Ledger) -> None:
    ledger.refused(2, "version 2 is refused: stale")
    assert versions(ledger) == (["1"], [])
    assert ledger.start(Limits(), 3).refusals == {NAME: "version 2 is refused: stale"}
    assert folders(ledger) == {"1"}


def test_an_engine_is_given_up_if_the_process_died_twice_while_it_was_wanted(ledger: Ledger) -> None:
    assert ledger.died(ready=True) is None
    given_up = ledger.died(ready=True)
    assert given_up is not None
    assert given_up.version == "2"
    ledger.refused(given_up.order, "it kills")
    assert (versions(ledger), ledger.died(ready=True)) == ((["1"], []), None)


def test_an_engine_that_waited_for_its_turn_is_not_given_up_with_the_one_that_was_being_opened(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.want(local(tmp_path, 3, 3).model_copy(update={"name": "other.x86"}))
    ledger.want(local(tmp_path, 4, 4))  # in place of version 2, and behind the other model's
    died = [ledger.died(ready=True) for _ in range(2)]
    assert [one and one.version for one in died] == [None, "3"]
    ledger.refused(3, "it kills")
    assert [one.version for one in ledger.wanted] == ["4"]
    assert ledger.died(ready=True) is None


def test_nothing_is_given_up_for_a_process_that_died_before_it_came_to_it(ledger: Ledger) -> None:
    assert [ledger.died(ready=False) for _ in range(3)] == [None] * 3
    assert versions(ledger) == (["1"], ["2"])


def test_what_a_dead_process_had_still_open_is_removed(ledger: Ledger, tmp_path: Path) -> None:
    ledger.opened(2)
    ledger.want(local(tmp_path, 3, 3))
    ledger.want(local(tmp_path, 4, 4))
    ledger.died(ready=True)
    assert (versions(ledger), folders(ledger)) == ((["2"], ["4"]), {"2", "4"})


def test_a_model_whose_files_went_bad_is_served_no_more_by_a_new_process(ledger: Ledger) -> None:
    ledger.refused(1, "version 1 is refused: tampered")
    assert versions(ledger) == ([], ["2"])
    ledger.opened(2)
    assert versions(ledger) == (["2"], [])


def test_an_engine_that_opens_after_its_model_was_unloaded_does_not_come_back(ledger: Ledger) -> None:
    ledger.unload(NAME)
    ledger.opened(2)
    ledger.refused(1, "too late")
    assert versions(ledger) == ([], [])
    assert ledger.start(Limits(), 0).refusals == {}
    ledger.closed(2)
    assert folders(ledger) == set()
