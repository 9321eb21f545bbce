"""A real Envoy before two small servers, each of which can be killed; and clients that tell what became of requests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

from slipway.rollout.gateway.envoy_admin import EnvoyAdmin
from slipway.rollout.gateway.envoy_config import CHALLENGER, CHAMPION, Places
from slipway.rollout.gateway.envoy_process import await_ready, envoy, write_files
from slipway.rollout.gateway.running import Gateway
from slipway.rollout.splitters.envoy import EnvoySplitter
from tests.ports import free_port

WAIT_SECONDS = 60.0
INFER = "/v2/models/m/infer"


class Answer(NamedTuple):
    """What a client got: a status of 0 is a broken connection."""

    status: int
    arm: str | None
    request_id: str | None


class Edge:
    """Envoy, champion and challenger; a context manager."""

    def __init__(self, folder: Path, shadow: bool = False) -> None:
        self.folder = folder
        listening, admin, champion, challenger = (free_port() for _ in range(4))
        self.places = Places("127.0.0.1", listening, admin, champion, challenger, folder)
        self._ports = {CHAMPION: champion, CHALLENGER: challenger}
        self._arms: dict[str, subprocess.Popen[bytes]] = {}
        self.admin = EnvoyAdmin(f"http://127.0.0.1:{admin}")
        self.told: list[str] = []
        self.envoy = envoy(self.places, self.told.append)
        self.gateway = Gateway(
            name="m.x86",
            address=f"http://127.0.0.1:{listening}",
            admin=f"http://127.0.0.1:{admin}",
            folder=folder,
            access_log=self.places.access_log,
            champion_log=self.log(CHAMPION),
            challenger_log=self.log(CHALLENGER),
            pid=os.getpid(),
        )
        self.splitter = EnvoySplitter(self.gateway)
        write_files(self.places, shadow)

    def __enter__(self) -> Self:
        try:
            for arm in self._ports:
                self.start_arm(arm)
            self.start_envoy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.envoy.end(5)
        for arm in list(self._arms):
            self.kill_arm(arm)

    def log(self, arm: str) -> Path:
        """Where an arm writes what it was asked."""
        return self.folder / f"{arm}.log"

    def start_envoy(self) -> None:
        """Start Envoy, and wait until it knows the challenger to be well, if it is."""
        self.envoy.start()
        await_ready(self.envoy, self.admin)

    def kill_envoy(self) -> None:
        """End Envoy as a fault would."""
        assert self.envoy.pid is not None
        os.kill(self.envoy.pid, signal.SIGKILL)
        wait_for(lambda: self.envoy.pid is None)

    def start_arm(self, arm: str) -> None:
        """Start a server, and wait until it answers."""
        program = [sys.executable, str(Path(__file__).with_name("arm.py")), arm, str(self._ports[arm])]
        self._arms[arm] = subprocess.Popen([*program, str(self.log(arm))])
        wait_for(lambda: ask_once(self._ports[arm], "GET", "/v2/health/ready").status == 200)

    def kill_arm(self, arm: str) -> None:
        """End a server as a fault would."""
        self._arms[arm].kill()
        self._arms.pop(arm).wait()

    def signal_arm(self, arm: str, number: signal.Signals) -> None:
        """Signal a server; one that is told to stop has stopped, which on a busy host it does not do at once."""
        self._arms[arm].send_signal(number)
        process, deadline = psutil.Process(self._arms[arm].pid), time.monotonic() + WAIT_SECONDS
        while number == signal.SIGSTOP and process.status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline, f"the {arm} runs on"
            time.sleep(0.01)

    def seen(self, arm: str) -> list[dict[str, Any]]:
        """What an arm was asked."""
        log = self.log(arm)
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def ask(
        self, count: int, at_once: int = 8, body: bytes = b"{}", headers: Mapping[str, str] | None = None
    ) -> list[Answer]:
        """What became of so many requests for inference."""
        with ThreadPoolExecutor(at_once) as pool:
            shares = [len(range(i, count, at_once)) for i in range(at_once)]
            answers = pool.map(lambda share: self._ask_in_turn(share, body, headers or {}), shares)
            return [answer for some in answers for answer in some]

    def get(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """What one request gets."""
        return ask_once(self.places.port, method, path, headers)

    def _ask_in_turn(self, count: int, body: bytes, headers: Mapping[str, str]) -> list[Answer]:
        connection = HTTPConnection("127.0.0.1", self.places.port, timeout=WAIT_SECONDS)
        try:
            return [_asked(connection, "POST", INFER, body, headers) for _ in range(count)]
        finally:
            connection.close()


def arms(answers: list[Answer]) -> Counter[str | None]:
    """How many requests each arm answered; whatever failed counts as None."""
    return Counter(answer.arm if answer.status == 200 else None for answer in answers)


def ask_once(port: int, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """What one request gets from a port."""
    connection = HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        return _asked(connection, method, path, b"{}" if method == "POST" else None, headers or {})
    finally:
        connection.close()


def wait_for(happened: Callable[[], object]) -> None:
    """Return once something has happened."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def _asked(
    connection: HTTPConnection, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> Answer:
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, HTTPException):
        connection.close()
        return Answer(0, None, None)
    arm = None
    with suppress(ValueError):
        arm = json.loads(content)["arm"]
    return Answer(answer.status, arm, answer.headers.get("x-request-id"))
