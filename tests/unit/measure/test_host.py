from __future__ import annotations

import os
from pathlib import Path

from slipway.measure.host import HostWatch, governor


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
