"""A queue of orders on four workers of one pool: every candidate built and answered once, also where a worker dies.

`benchmarks/workers.py` measures how much sooner that is than on one worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tasks.worker_pool import Patience
from tests.faults.napping_engine import BEGUN
from tests.integration.prefect_server import Worker
from tests.integration.team.conftest import StartStack
from tests.integration.team.fleet import SERVICES, Fleet, Lot, ended

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TAKEN = "submitted to infrastructure"
WORKERS, ORDERS, BUILDS = 4, 8, 5
LOT_SECONDS = 420.0  # a host that is busy with other things takes half of it for the imports
IMPATIENT = Patience(poll=1, sign=1, silent=30, start=240)


@pytest.fixture(scope="module")
def fleet(start_stack: StartStack, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    root = tmp_path_factory.mktemp("fleet")
    return Fleet(root, start_stack(root, *SERVICES))


@pytest.fixture(scope="module")
def workers(fleet: Fleet) -> Iterator[list[Worker]]:
    with ExitStack() as running:
        yield fleet.workers(WORKERS, running)


def test_forty_builds_on_four_workers_are_each_done_once(fleet: Fleet, workers: list[Worker]) -> None:
    with fleet.lot("whole", ORDERS, BUILDS, seconds=1.0, patience=IMPATIENT) as lot:
        received = lot.received(LOT_SECONDS)

    entries = lot.entries
    assert len(set(lot.candidates)) == ORDERS * BUILDS
    assert sorted(received) == sorted(lot.candidates)
    assert sorted(ended(entries)) == sorted(lot.candidates)
    assert sum(entry.event == BEGUN for entry in entries) == len(lot.candidates)
    taken = [worker.log.count(TAKEN) for worker in workers]
    assert sum(taken) == ORDERS
    assert all(taken), "each had its share"


def test_the_order_of_a_killed_worker_is_done_by_another_and_answered_once(fleet: Fleet, workers: list[Worker]) -> None:
    """What was under way when it died is built once more; of the other orders nothing is."""
    doomed, seen = workers[0], set[str]()
    with fleet.lot("cut", WORKERS, BUILDS, seconds=2.0, patience=IMPATIENT) as lot:
        doomed.wait_for(lambda: bool(under_way(doomed, lot, seen)))
        doomed.kill()
        received = lot.received(LOT_SECONDS)

    (order,) = seen
    entries = lot.entries
    begun = Counter(entry.candidate for entry in entries if entry.event == BEGUN)
    assert sorted(received) == sorted(lot.candidates)
    assert set(ended(entries)) == set(lot.candidates)
    assert {candidate.partition("/")[0] for candidate, times in begun.items() if times > 1} <= {order}
    assert max(begun.values()) <= 2
    assert any(f"{order}, attempt 2" in worker.log for worker in workers[1:])


def under_way(worker: Worker, lot: Lot, orders: set[str]) -> set[str]:
    """``orders``, with those that a worker builds for now."""
    below, done = worker.descendants(), set(ended(lot.entries))
    orders |= {one.candidate.partition("/")[0] for one in lot.entries if one.pid in below and one.candidate not in done}
    return orders
