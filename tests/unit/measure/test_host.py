from __future__ import annotations

import os
from pathlib import Path

import pytest

from slipway.measure.host import HostWatch, cores_first, governor


def test_the_state_of_the_host_is_told() -> None:
    cpus = os.sched_getaffinity(0)
    load = HostWatch(cpus).so_far()
    assert load.cpus == len(cpus)
    assert min(load.load_1m_before, load.load_1m_after) >= 0
    assert 0 <= load.steal_share <= 1


def test_governors_of_the_allowed_cpus_are_told_once_each(tmp_path: Path) -> None:
    for cpu, name in enumerate(("performance", "powersave", "performance")):
        folder = tmp_path / f"cpu{cpu}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert governor({0, 2}, tmp_path) == "performance"
    assert governor({0, 1}, tmp_path) == "performance, powersave"


def test_a_guest_that_shows_no_governor_has_none(tmp_path: Path) -> None:
    assert governor({0}, tmp_path) is None


@pytest.mark.parametrize(
    ("siblings", "order"),
    [
        (["0-1", "0-1", "2-3", "2-3"], [0, 2, 1, 3]),
        (["0,2", "1,3", "0,2", "1,3"], [0, 1, 2, 3]),
        (["0", "1", "2"], [0, 1, 2]),
        (["0-1", "0-1", "2", "3"], [0, 2, 3, 1]),
        (["0-1", "", "not a list", "7"], [0, 1, 2, 3]),
    ],
)
def test_neighbours_in_the_order_of_cpus_are_different_cores(
    siblings: list[str], order: list[int], tmp_path: Path
) -> None:
    for cpu, text in enumerate(siblings):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")
    assert cores_first(range(len(siblings)), tmp_path) == order


def test_cpus_whose_siblings_are_not_told_keep_their_order(tmp_path: Path) -> None:
    assert cores_first({3, 1, 2}, tmp_path) == [1, 2, 3]
