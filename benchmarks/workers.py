"""What more workers bring: how many candidates a second one worker, and four of them, build from a queue.

Run it on an idle machine: ``.venv/bin/python benchmarks/workers.py``. It takes a quarter of an hour and writes its
table into docs/guides/team.md.

Builds sleep, so that one machine does for four: what is measured is the way through Prefect, MLflow and S3, by which
orders go to workers and engine files come back. Servers and workers are real, and so are all the steps around a build.
Each candidate has to be built once, and its file has to come back.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from examples import line, write

GUIDE = Path(__file__).parent.parent / "docs" / "guides" / "team.md"
WORKERS = (1, 4)
ORDERS, BUILDS = 8, 25
BUILD_SECONDS = 3.0
LOT_SECONDS = 3600.0


class Figures(NamedTuple):
    """What a queue of all the orders took."""

    builds: int
    per_second: float
    wall_seconds: float


def measured(fleet: Any, workers: int) -> Figures:
    """All orders on so many workers, which have started before.

    Raises:
        SystemExit: a candidate was lost, or built twice.
    """
    from tests.integration.team.fleet import builds_per_second, ended

    with ExitStack() as running:
        fleet.workers(workers, running)
        start = time.monotonic()
        with fleet.lot(f"on-{workers}", ORDERS, BUILDS, BUILD_SECONDS) as lot:
            received = sorted(lot.received(LOT_SECONDS))
            wall_seconds = time.monotonic() - start
            entries, wanted = lot.entries, sorted(lot.candidates)
    if not received == sorted(ended(entries)) == wanted:
        raise SystemExit(f"of {len(wanted)} candidates {len(ended(entries))} were built, and {len(received)} came back")
    figures = Figures(len(wanted), builds_per_second(entries), wall_seconds)
    print(f"{workers} workers: {figures}", flush=True)
    return figures


def table(found: dict[int, Figures]) -> str:
    """The figures as Markdown."""
    first = found[WORKERS[0]]
    headings = ("workers", "candidates built, each once", "builds per s", "throughput", "wall s, all orders answered")
    lines = [line(headings), line("---" for _ in headings)]
    for workers, one in found.items():
        ratio = one.per_second / first.per_second
        cells = (f"{workers}", f"{one.builds}", f"{one.per_second:.2f}", f"{ratio:.1f}x", f"{one.wall_seconds:.0f}")
        lines.append(line(cells))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and keep."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        os.environ["PREFECT_HOME"] = str(root / "prefect")  # read where prefect is imported
        from infra.stack import Stack, free_ports
        from tests.integration.team.fleet import SERVICES, Fleet

        with Stack(root, free_ports(), only=SERVICES) as stack:
            fleet = Fleet(root, stack)
            found = {workers: measured(fleet, workers) for workers in WORKERS}
    queue = f"{ORDERS} orders of {BUILDS} candidates each, queued at once; a build sleeps {BUILD_SECONDS:g} s"
    told = f"{table(found)}\n{queue}, on one host of {len(os.sched_getaffinity(0))} CPUs.\n"
    print(told)
    write(GUIDE, "workers", "benchmarks/workers.py", told)


if __name__ == "__main__":
    main()
