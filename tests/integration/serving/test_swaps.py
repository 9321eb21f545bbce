"""A real process that answers under load, while its engines change and while it is killed."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from slipway.errors import InfrastructureError
from slipway.serving.http.limits import Limits
from slipway.serving.http.server import bound
from slipway.serving.processes import serving_process
from slipway.serving.processes.following import Follower
from slipway.serving.processes.messages import Reach, Swap, Unload
from slipway.serving.processes.models_file import ModelEntry
from slipway.serving.processes.supervisor import Supervisor
from tests.fakes.evidence import HARDWARE
from tests.fakes.multiplier import NAME, X, answer, local, move, register
from tests.fakes.registry import FakeRegistry

pytestmark = pytest.mark.integration

WAIT_SECONDS = 60.0
CLIENTS = 4
SWAPS = 200
REQUESTS = 8_000
REQUEST = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.ravel().tolist()}]})


def wait_for(happened: Callable[[], bool]) -> None:
    """Return once something has happened."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Fleet:
    """The supervising half in this process, on a registry whose versions 1 and 2 answer differently."""

    def __init__(self, folder: Path) -> None:
        self.registry, self.told = FakeRegistry(), list[str]()
        self.factors = {str(register(self.registry, folder, factor).digest): factor for factor in (2, 3)}
        move(self.registry, "1")
        self.folder = folder / "engines"
        self.folder.mkdir()
        self._listening = bound("127.0.0.1", 0)
        self.port = self._listening.getsockname()[1]
        self.supervisor = Supervisor(self._listening, Limits(), self.folder, None, self.told.append)
        entry = ModelEntry(name="tiny", target="x86")
        submit = self.supervisor.submit
        self.follower = Follower(self.registry, lambda: [entry], HARDWARE, self.folder, submit)
        self.status: int | None = None
        self._runs = threading.Thread(target=self._run)

    def __enter__(self) -> Fleet:
        self.supervisor.open(self.follower.first())
        self._runs.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.end()
        self._runs.join(WAIT_SECONDS)
        self.supervisor.__exit__()
        self._listening.close()

    def _run(self) -> None:
        self.status = self.supervisor.run(self.follower.fetch_again)

    def pid(self) -> int:
        """The process that answers, once there is one."""
        wait_for(lambda: self.supervisor.pid is not None)
        found = self.supervisor.pid
        assert found is not None
        return found

    def index(self) -> dict[str, str]:
        """What the server tells of its one model."""
        place = f"http://127.0.0.1:{self.port}/v2/repository/index"
        with urllib.request.urlopen(urllib.request.Request(place, b""), timeout=WAIT_SECONDS) as response:
            (found,) = json.load(response)
        assert isinstance(found, dict)
        return found

    def metrics(self) -> str:
        """What Prometheus reads."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=WAIT_SECONDS) as response:
            return str(response.read().decode())


class Clients:
    """Clients that ask as soon as they were answered, and check each answer against the engine that it names."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._over = fleet, threading.Event()
        self.answers, self.failures = 0, list[str]()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._fleet.port, timeout=WAIT_SECONDS)
        while not self._over.is_set():
            try:
                connection.request("POST", f"/v2/models/{NAME}/infer", REQUEST)
                response = connection.getresponse()
                self._check(response.status, response.headers.get("X-Engine-Digest", ""), response.read())
            except (OSError, http.client.HTTPException) as error:
                connection.close()  # the next request connects anew
                self._count(f"{type(error).__name__}: {error}")
        connection.close()

    def _check(self, status: int, digest: str, body: bytes) -> None:
        if status != 200:
            self._count(f"{status}: {body!r}")
            return
        told: dict[str, Any] = json.loads(body)
        factor = self._fleet.factors[digest]
        right = np.allclose(told["outputs"][0]["data"], answer(factor).ravel())
        version = list(self._fleet.factors).index(digest) + 1
        same = told["model_version"] == str(version)
        self._count(None if right and same else f"{digest} gave {told}")

    def _count(self, failure: str | None) -> None:
        with self._lock:
            self.answers += failure is None
            self.failures += [] if failure is None else [failure]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Version 1 is served."""
    with Fleet(tmp_path) as running:
        yield running
    assert running.status == 0


def rss_bytes(pid: int) -> int:
    """What the process holds in memory."""
    return int(psutil.Process(pid).memory_info().rss)


def test_hundreds_of_swaps_under_load_fail_no_request_mix_up_no_answer_and_leave_nothing(fleet: Fleet) -> None:
    sizes = []
    with Clients(fleet) as clients:
        for swap in range(SWAPS):
            version = str(2 - swap % 2)
            before = clients.answers
            move(fleet.registry, version)
            fleet.follower.look()
            wait_for(lambda wanted=version: fleet.index()["version"] == wanted)
            wait_for(lambda then=before: clients.answers > then)
            if swap % (SWAPS // 4) == SWAPS // 4 - 1:
                sizes.append(rss_bytes(fleet.pid()))
    assert clients.failures == []
    assert clients.answers > SWAPS
    assert f'slipway_swaps_total{{model="{NAME}",outcome="swapped"}} {SWAPS}.0' in fleet.metrics()
    wait_for(lambda: len(list(fleet.folder.iterdir())) == 1)
    assert sizes[-1] - sizes[0] < 16 * 2**20, sizes
    assert not [line for line in fleet.told if "refused" in line or "process" in line]


def test_a_killed_process_fails_the_requests_at_hand_alone_and_is_started_anew_without_the_registry(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(fleet.registry, "2")
    fleet.follower.look()
    wait_for(lambda: fleet.index()["version"] == "2")
    fleet.registry.models.clear()
    with Clients(fleet) as clients:
        wait_for(lambda: clients.answers > 100)
        for _ in range(2):
            killed, before = fleet.pid(), clients.answers
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda then=before: clients.answers > then + 100)
            assert fleet.pid() != killed
    # A client has one request at hand.
    assert len(clients.failures) <= 2 * CLIENTS, clients.failures
    cut = "RemoteDisconnected|ConnectionResetError|BrokenPipe|IncompleteRead"
    assert [one for one in clients.failures if not re.match(cut, one)] == []
    assert fleet.index()["version"] == "2"
    assert "slipway_engine_process_restarts 2.0" in fleet.metrics()
    assert [line for line in fleet.told if "process" in line] == [
        "the serving process was ended by SIGKILL; it is started anew in 0.1 s",
        "the serving process was ended by SIGKILL; it is started anew in 0.2 s",
    ]


def test_an_engine_that_takes_the_process_with_it_is_given_up_and_the_former_serves_on(
    fleet: Fleet, tmp_path: Path
) -> None:
    (fleet.folder / "77").mkdir()
    hangs = fleet.folder / "77" / "example.npz"
    os.mkfifo(hangs)  # whoever opens it to read waits for somebody who writes
    engine, held = local(tmp_path, 77, 3, companions={hangs.name: hangs}), list[int]()
    fleet.supervisor.submit(Swap(engine=engine))
    for _ in range(2):
        killed = fleet.pid()
        wait_for(partial(written_to, hangs, held))
        assert fleet.index()["version"] == "1"
        os.kill(killed, signal.SIGKILL)
        os.close(held.pop())
        wait_for(lambda pid=killed: fleet.supervisor.pid not in {None, pid})
    reason = "version 77 is refused: the serving process died each time while it was opened"
    assert fleet.index() == {"name": NAME, "version": "1", "state": "READY", "reason": reason}
    wait_for(lambda: 'outcome="crashed"} 1.0' in fleet.metrics())
    assert f"{NAME}: {reason}; version 1 serves on" in fleet.told
    assert not hangs.exists()


def test_a_process_that_dies_while_it_opens_the_first_engine_is_told(tmp_path: Path) -> None:
    hangs, held = tmp_path / "example.npz", list[int]()
    os.mkfifo(hangs)
    engine = local(tmp_path, 1, 2, companions={hangs.name: hangs})
    told: list[str] = []
    with bound("127.0.0.1", 0) as listening, Supervisor(listening, Limits(), tmp_path, None, told.append) as supervisor:

        def kill() -> None:
            wait_for(partial(written_to, hangs, held))
            assert supervisor.pid is not None
            os.kill(supervisor.pid, signal.SIGKILL)
            os.close(held.pop())

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(InfrastructureError, match=r"was ended by SIGKILL while it opened tiny\.x86 version 1$"):
            supervisor.open([engine])
        killer.join()


def test_a_process_that_cannot_be_started_anew_is_tried_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    command = serving_process.COMMAND
    monkeypatch.setattr(serving_process, "COMMAND", ("/missing/python",))
    os.kill(fleet.pid(), signal.SIGKILL)
    told = "the serving process cannot be started: No such file or directory; it is started anew in 0.4 s"
    wait_for(lambda: told in fleet.told)
    monkeypatch.setattr(serving_process, "COMMAND", command)
    wait_for(lambda: any("answering again" in line for line in fleet.told))
    assert fleet.index()["version"] == "1"


def test_what_is_ordered_while_no_process_answers_is_done_in_its_order(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = serving_process.COMMAND
    monkeypatch.setattr(serving_process, "COMMAND", ("/missing/python",))
    os.kill(fleet.pid(), signal.SIGKILL)
    wait_for(lambda: any("cannot be started" in line for line in fleet.told))
    for change in (Unload(name=NAME), Swap(engine=local(tmp_path, 5, 3))):  # out of the models' file, and in again
        fleet.supervisor.submit(change)
    wait_for(lambda: f"{NAME} is served no more" in fleet.told)
    monkeypatch.setattr(serving_process, "COMMAND", command)
    wait_for(lambda: any("version 5 (" in line for line in fleet.told))
    fleet.supervisor.submit(Reach(reason="down"))
    wait_for(lambda: "slipway_registry_up 0.0" in fleet.metrics())  # so all that came before is done
    assert fleet.index() == {"name": NAME, "version": "5", "state": "READY", "reason": ""}


FAILS_AT_THE_END = """
import socket, sys
from slipway.serving.processes.messages import ORDERS, Channel, Ready
channel = Channel(socket.socket(fileno=int(sys.argv[1])), ORDERS)
orders = channel.each()
next(orders)
channel.send(Ready())
any(order.do == "end" for order in orders)
sys.exit(1)
"""


def test_a_process_that_fails_at_the_end_is_told_and_gives_the_exit_code_of_infrastructure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_process, "COMMAND", (sys.executable, "-c", FAILS_AT_THE_END))
    told: list[str] = []
    with bound("127.0.0.1", 0) as listening, Supervisor(listening, Limits(), tmp_path, None, told.append) as supervisor:
        assert supervisor.open([]) == {}
        supervisor.end()
        assert supervisor.run(told.append) == InfrastructureError.exit_code
    assert told == ["the serving process ended with exit status 1 before it had answered everything"]


def test_more_connections_than_the_system_has_files_for_are_closed_without_a_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few = ("/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    monkeypatch.setattr(serving_process, "COMMAND", (*few, *serving_process.COMMAND))
    with Fleet(tmp_path) as fleet:
        with ExitStack() as idle:
            for _ in range(400):
                idle.enter_context(socket.create_connection(("127.0.0.1", fleet.port), WAIT_SECONDS))
        wait_for(partial(answers, fleet))
    assert fleet.status == 0
    assert "out of system resource" not in capfd.readouterr().err


def answers(fleet: Fleet) -> bool:
    """Whether a client that comes now is answered."""
    with suppress(OSError, http.client.HTTPException):
        return fleet.index()["version"] == "1"
    return False


def written_to(pipe: Path, held: list[int]) -> bool:
    """Open ``pipe`` for writing, into ``held``, if somebody waits for it."""
    try:
        held.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # nobody does
        return False
    return True


def test_a_file_that_went_bad_on_disk_is_not_served_again_and_fetched_anew(fleet: Fleet) -> None:
    (engine,) = fleet.folder.rglob("*.onnx")
    engine.write_bytes(b"other bytes")
    os.kill(fleet.pid(), signal.SIGKILL)
    wait_for(lambda: any("answering again" in line for line in fleet.told))
    index = fleet.index()
    assert (index["version"], index["state"]) == ("", "UNAVAILABLE")
    assert "is not the engine file of its evidence" in index["reason"]
    fleet.follower.look()
    wait_for(lambda: fleet.index()["state"] == "READY")
    assert fleet.index() == {"name": NAME, "version": "1", "state": "READY", "reason": ""}


def test_memory_stays_flat_over_many_requests(fleet: Fleet) -> None:
    sizes = []
    with Clients(fleet) as clients:
        for part in range(1, 5):
            wait_for(lambda done=part * REQUESTS // 4: clients.answers >= done)
            sizes.append(rss_bytes(fleet.pid()))
    assert clients.failures == []
    assert sizes[-1] - sizes[0] < 4 * 2**20, sizes
