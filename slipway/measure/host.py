"""The state of the host around a measurement: load, stolen time, frequency governor, and the CPUs that were allowed."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from slipway.records import HostLoad

_CPUS = Path("/sys/devices/system/cpu")


class HostWatch:
    """Watches the host from when it is made; ``so_far`` tells what happened on it since."""

    def __init__(self, cpus: Collection[int]) -> None:
        self._cpus = tuple(sorted(cpus))
        self._load_before = os.getloadavg()[0]
        self._ticks_before = _ticks()

    def so_far(self) -> HostLoad:
        """Load averages over a minute, before and now, and the share of CPU time that other guests took meanwhile."""
        return HostLoad(
            load_1m_before=self._load_before,
            load_1m_after=os.getloadavg()[0],
            steal_share=_steal_share(self._ticks_before, _ticks()),
            governor=governor(self._cpus),
            cpus=len(self._cpus),
        )


def governor(cpus: Collection[int], folder: Path = _CPUS) -> str | None:
    """The frequency governor of ``cpus``, several joined by commas; None where the kernel shows none, as in a guest."""
    files = [folder / f"cpu{cpu}" / "cpufreq" / "scaling_governor" for cpu in cpus]
    try:
        found = {file.read_text(encoding="ascii").strip() for file in files}
    except OSError:
        return None
    return ", ".join(sorted(found)) or None


def cores_first(cpus: Collection[int], folder: Path = _CPUS) -> list[int]:
    """``cpus`` in an order in which neighbours are different cores: first one CPU of each core, then its siblings.

    Where the kernel does not tell siblings, as in some guests, each CPU counts as a core.
    """
    return sorted(cpus, key=lambda cpu: (_place_on_core(cpu, folder), cpu))


def _place_on_core(cpu: int, folder: Path) -> int:
    try:
        text = (folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii")
        ends = [[int(end) for end in part.split("-")] for part in text.split(",")]  # as in "0-1" or "0,4"
    except (OSError, ValueError):
        return 0
    siblings = [sibling for first, *last in ends for sibling in range(first, (last or [first])[0] + 1)]
    return siblings.index(cpu) if cpu in siblings else 0


def _ticks() -> list[int]:
    """Ticks of all CPUs: user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5))."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]


def _steal_share(before: Sequence[int], after: Sequence[int]) -> float:
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return spent[7] / max(sum(spent), 1)
