"""Which releases are missing, from what is known alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from slipway.decisions.reconciliation import (
    PATIENCE,
    Asked,
    Due,
    FinishedRelease,
    History,
    Plan,
    ReleaseRun,
    RunState,
    due,
    missing,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DATA, OTHER = "aa11.dir", "bb22.dir"
NEVER, CHANGED = "it was never released", "it was not released on the test data as it is now, aa11.dir"


def finished(*versions: int, data_md5: str = DATA) -> list[FinishedRelease]:
    return [FinishedRelease(str(version), data_md5) for version in versions]


def run(
    name: str,
    state: RunState = RunState.FAILED,
    *,
    version: int = 2,
    hours_ago: float = 2,
    data_md5: str | None = None,
) -> ReleaseRun:
    return ReleaseRun(name, str(version), state, NOW - timedelta(hours=hours_ago), f"{name} said so", data_md5)


def of_two(*runs: ReleaseRun, asked: tuple[Asked, ...] = ()) -> Plan:
    """Version 1 was released, version 2 not yet."""
    return due(History(versions=["2", "1"], finished=finished(1), runs=runs, asked=asked), DATA, NOW)


@pytest.mark.parametrize(
    ("versions", "released", "wanted"),
    [
        ([], [], {}),
        (["3", "2", "1"], [], {"3": NEVER}),
        (["3", "2", "1"], finished(3), {}),
        (["11", "10", "9", "8"], finished(9), {"10": NEVER, "11": NEVER}),
        (["4", "3", "2", "1"], finished(3, 1), {"4": NEVER}),
        (["2", "1"], finished(2, data_md5=OTHER), {"2": CHANGED}),
        (["3", "2", "1"], finished(2, 1, data_md5=OTHER), {"2": CHANGED, "3": NEVER}),
        (["2", "1"], [*finished(2, data_md5=OTHER), *finished(2)], {}),
        (["3", "1"], finished(2, data_md5=OTHER), {"3": NEVER}),
    ],
    ids=[
        "no version",
        "of a model that was never released the newest alone",
        "nothing is missing",
        "what is newer by number, not by letters",
        "older ones that were passed over stay so",
        "other data",
        "a newer version and other data",
        "the data are again what they were",
        "the released one was deleted",
    ],
)
def test_what_is_missing(versions: list[str], released: list[FinishedRelease], wanted: dict[str, str]) -> None:
    assert missing(History(versions=versions, finished=released), DATA) == wanted


@pytest.mark.parametrize(
    ("released", "wanted"),
    [([], {"2": NEVER}), (finished(2), {}), (finished(3), {"2": NEVER}), (finished(2, data_md5=OTHER), {"2": CHANGED})],
)
def test_with_an_alias_the_version_that_bears_it_counts_alone(
    released: list[FinishedRelease], wanted: dict[str, str]
) -> None:
    assert missing(History(versions=["3", "2", "1"], finished=released), DATA, bearer="2") == wanted


def test_what_is_missing_is_due_as_the_first_attempt() -> None:
    assert of_two() == Plan(due=(Due("2", NEVER, 1),))


@pytest.mark.parametrize("data_md5", [None, DATA, OTHER])
def test_a_run_on_its_way_is_left_alone(data_md5: str | None) -> None:
    plan = of_two(run("lost"), run("late", RunState.GOING, hours_ago=9, data_md5=data_md5))

    assert plan == Plan(left_alone={"2": "run late is on its way"})


def test_a_request_of_a_moment_ago_is_left_alone() -> None:
    asked = Asked("2", NOW - PATIENCE + timedelta(seconds=1))

    assert of_two(asked=(asked,)).left_alone == {"2": "it was asked for at 11:50:01 UTC, and its run is about to come"}
    assert of_two(asked=(Asked("1", NOW),)).due, "another version's says nothing"


def test_a_request_that_started_no_run_is_made_again_under_another_number() -> None:
    asked = Asked("2", NOW - PATIENCE)

    assert of_two(asked=(asked,)).due == (Due("2", NEVER, 2),)
    answered = of_two(run("died", hours_ago=1), asked=(Asked("2", NOW - timedelta(hours=1.1)),))
    assert answered.due == (Due("2", NEVER, 2),), "the request and its run are one attempt"


def test_what_a_person_cancelled_stays_so() -> None:
    plan = of_two(run("latest", RunState.CANCELLED, hours_ago=1), run("earlier"))

    assert list(plan.left_alone) == ["2"]
    assert plan.left_alone["2"].startswith("run latest was cancelled; ")
    assert of_two(run("latest", hours_ago=1), run("earlier", RunState.CANCELLED)).due == (Due("2", NEVER, 3),)


def test_after_three_attempts_it_is_given_up_with_what_they_said() -> None:
    runs = [run("c", hours_ago=1), run("b", hours_ago=2), run("a", hours_ago=3)]

    assert of_two(*runs[1:]).due == (Due("2", NEVER, 3),)
    plan = of_two(*runs)
    assert plan == Plan(
        given_up={
            "2": f"{NEVER}; 3 attempts came to nothing: run c ended: c said so; run b ended: b said so; "
            "run a ended: a said so"
        }
    )


def test_requests_without_runs_are_given_up_as_well() -> None:
    asked = tuple(Asked("2", NOW - timedelta(hours=hours)) for hours in (1, 2, 3))

    assert "started no run (is the automation there" in of_two(asked=asked).given_up["2"]


def test_failures_before_one_that_came_to_its_end_or_on_other_data_do_not_count() -> None:
    earlier = [run("d", hours_ago=5), run("e", hours_ago=6)]

    assert of_two(run("a"), run("b", RunState.COMPLETED, hours_ago=4), *earlier).due == (Due("2", NEVER, 5),)
    on_other = [run(name, data_md5=OTHER) for name in "abc"]
    assert of_two(*on_other).due == (Due("2", NEVER, 1),)
