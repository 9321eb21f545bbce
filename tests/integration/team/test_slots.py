"""The slot of a release on a real Prefect server: one holder at a time, and none for ever."""

from __future__ import annotations

import contextvars
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import slots
from tasks.slots import slot
from tests.integration.prefect_server import PrefectServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SHORTEST_SECONDS = 60.0  # that Prefect's API takes
HOLDER = """
import time
from tasks import slots

slots.LEASE_SECONDS = 60
with slots.slot("release:doomed", lambda _: None):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture(autouse=True)
def _quick(server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slots, "RETRY_SECONDS", 0.2)
    with temporary_settings({PREFECT_API_URL: server.environment["PREFECT_API_URL"]}):
        yield


def active(name: str) -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name).active_slots


def test_one_holds_it_and_the_others_wait_for_their_turn() -> None:
    held: list[tuple[float, float]] = []
    waited: list[str] = []
    others_wait = threading.Event()

    def waits(message: str) -> None:
        waited.append(message)
        if sum("is taken" in one for one in waited) >= 2:
            others_wait.set()

    def hold() -> None:
        with slot("release:tiny & co", waits):  # "&" is in no name of Prefect's
            start = time.monotonic()
            assert others_wait.wait(60)
            time.sleep(0.5)
            held.append((start, time.monotonic()))

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(hold,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    with slot("release:another", lambda _: None):
        pass  # at once: the first keeps its own until the others have been told
    for thread in threads:
        thread.join(60)

    assert len(held) == 3
    held.sort()
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(held))
    # A busy server may have failed to answer one of them meanwhile.
    taken = [message for message in waited if "did not give" not in message]
    assert set(taken) == {"the slot 'release:tiny _ co' is taken"}
    assert 2 <= len(taken) <= 3, "each told once; the limit may have been made while the third came"
    assert active("release:tiny _ co") == 0


def test_the_slot_of_a_killed_holder_is_free_after_its_lease(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    killed = time.monotonic()

    with slot("release:doomed", lambda _: None):
        took = time.monotonic() - killed

    assert took < SHORTEST_SECONDS + 120, "its lease, and the time that Prefect and a busy host take to see it"


def test_a_slot_is_given_back_after_its_lease_was_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setattr(slots, "LEASE_SECONDS", 60.0)
    with slot("release:lost", lambda _: None):
        with get_client(sync_client=True) as client:
            limit = client.read_global_concurrency_limit_by_name("release:lost")
            assert limit.active_slots == 1
        time.sleep(1)  # renewed meanwhile
    assert active("release:lost") == 0
