"""Which releases of a model are missing: of versions that no webhook announced, or because the test data changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

ATTEMPTS = 3
PATIENCE = timedelta(minutes=10)  # a request becomes a run within seconds


class RunState(StrEnum):
    """What became of a run that was to release a version."""

    GOING = "going"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class FinishedRelease:
    """A release of ``version`` that came to its end on every target, whatever the gates said."""

    version: str
    data_md5: str


@dataclass(frozen=True)
class ReleaseRun:
    """A run of the deployment; ``data_md5`` is what it released on, None where it did not get so far."""

    name: str
    version: str
    state: RunState
    created: datetime
    message: str = ""
    data_md5: str | None = None


@dataclass(frozen=True)
class Asked:
    """A request to release ``version``, of which somebody told Prefect."""

    version: str
    at: datetime


@dataclass(frozen=True)
class History:
    """What is known of a model: its versions, and of their releases everything, the newest run first."""

    versions: Sequence[str]
    finished: Sequence[FinishedRelease] = ()
    runs: Sequence[ReleaseRun] = ()
    asked: Sequence[Asked] = ()


@dataclass(frozen=True)
class Due:
    """A version to be released, why, and which attempt it is, from 1 on."""

    version: str
    reason: str
    attempt: int


@dataclass(frozen=True)
class Plan:
    """What is due, and the versions that are given up or left alone, with the reason."""

    due: tuple[Due, ...] = ()
    given_up: dict[str, str] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)


def due(history: History, data_md5: str, now: datetime, bearer: str | None = None) -> Plan:
    """The releases that are missing on the test data ``data_md5``; ``bearer`` is the one version that counts, if any.

    A version is left alone while a run or a request of it is under way, and when a person cancelled the last run. One
    that came to nothing `ATTEMPTS` times is given up.
    """
    found: list[Due] = []
    given_up: dict[str, str] = {}
    left_alone: dict[str, str] = {}
    for version, reason in missing(history, data_md5, bearer).items():
        all_runs = [run for run in history.runs if run.version == version]
        latest = max((run.created for run in all_runs), default=None)
        asked = [one for one in history.asked if one.version == version and (latest is None or latest < one.at)]
        runs = [run for run in all_runs if run.state is RunState.GOING or run.data_md5 in {None, data_md5}]
        if told := _under_way(runs, asked, now):
            left_alone[version] = told
        elif len(lost := _lost(runs, asked)) >= ATTEMPTS:
            given_up[version] = f"{reason}; {len(lost)} attempts came to nothing: {'; '.join(lost[:ATTEMPTS])}"
        else:
            found.append(Due(version, reason, attempt=1 + len(runs) + len(asked)))
    return Plan(tuple(found), given_up, left_alone)


def missing(history: History, data_md5: str, bearer: str | None = None) -> dict[str, str]:
    """Why a version is to be released, by version, the oldest first.

    Of a model of which nothing was released yet that is the newest version alone.
    """
    released: dict[int, set[str]] = {}
    for one in history.finished:
        released.setdefault(int(one.version), set()).add(one.data_md5)
    if bearer is not None:
        wanted, newest = [int(bearer)], int(bearer)
    elif not released:
        newest = max(map(int, history.versions), default=0)
        wanted = [newest] if newest else []
    else:
        newest = max(released)
        # One that was deleted from the registry since cannot be released again.
        wanted = sorted(int(version) for version in history.versions if int(version) >= newest)
    why = {}
    for version in wanted:
        if version not in released:
            why[str(version)] = "it was never released"
        elif version == newest and data_md5 not in released[version]:
            why[str(version)] = f"it was not released on the test data as it is now, {data_md5[:12]}"
    return why


def _under_way(runs: Sequence[ReleaseRun], asked: Sequence[Asked], now: datetime) -> str | None:
    """Why nothing is to be done now; None if there is something."""
    for run in runs:
        if run.state is RunState.GOING:
            return f"run {run.name} is on its way"
    if recent := [one for one in asked if now - one.at < PATIENCE]:
        return f"it was asked for at {max(one.at for one in recent):%H:%M:%S %Z}, and its run is about to come"
    if runs and not asked and runs[0].state is RunState.CANCELLED:
        return f"run {runs[0].name} was cancelled; to release it all the same, start a run by hand"
    return None


def _lost(runs: Sequence[ReleaseRun], asked: Sequence[Asked]) -> list[str]:
    """What came to nothing since the last run that came to its end, the newest first."""
    lost = [
        f"what was asked for at {one.at:%Y-%m-%d %H:%M:%S} started no run (is the automation there, and switched on?)"
        for one in sorted(asked, key=lambda one: one.at, reverse=True)
    ]
    for run in runs:
        if run.state is RunState.COMPLETED:
            break
        if run.state is RunState.FAILED:
            lost.append(f"run {run.name} ended: {run.message or 'without a word'}")
    return lost
