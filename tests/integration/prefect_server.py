"""A Prefect server and workers of its pools as real processes, watched from outside and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.ports import free_port

START_SECONDS = 300.0  # also of what a worker does; a host that is busy with other tests takes a third of it
BUSY_SECONDS = 60.0


def api(url: str, auth_string: str | None = None) -> httpx.Client:
    """A client of the API there, which may ask for NAME:PASSWORD; what answers 503 is asked again."""
    auth = httpx.BasicAuth(*auth_string.split(":", 1)) if auth_string else None
    return httpx.Client(base_url=url, auth=auth, timeout=60, transport=_Patient())


class _Patient(httpx.HTTPTransport):
    """Asks again as Prefect's own client does: the server did nothing, since its SQLite file was locked."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            response = super().handle_request(request)
            if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                return response
            response.close()
            time.sleep(0.2)


class Background:
    """A process with its log; a context manager that kills it with all its descendants."""

    def __init__(self, command: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = psutil.Popen(
                [sys.executable, "-m", "prefect", *command],
                cwd=cwd,
                env={**os.environ, **environment},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        self.wait_for(self.is_up)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def is_up(self) -> bool:
        """Whether it has started."""
        raise NotImplementedError

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Return at the moment that something has happened while it runs."""
        deadline = time.monotonic() + START_SECONDS
        try:
            while not happened():
                assert self._process.is_running(), f"ended before that happened: {self.log}"
                assert time.monotonic() < deadline, f"it did not happen: {self.log}"
                time.sleep(0.05)
        except BaseException:
            self.kill()
            raise

    def descendants(self) -> set[int]:
        """The ids of the processes below it."""
        return {process.pid for process in self._process.children(recursive=True)}

    def kill(self) -> None:
        """End it and all that it started with SIGKILL; doing it again is harmless."""
        if self._process.poll() is None:
            started = self._process.children(recursive=True)
            self._process.kill()
            for process in started:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            self._process.wait()


class PrefectServer(Background):
    """A server on a free port of this host, with a home of its own."""

    def __init__(self, root: Path) -> None:
        port = free_port()
        self.environment = {
            "PREFECT_HOME": str(root / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_LOGGING_ROOT_LEVEL": "ERROR",
        }
        command = ["server", "start", "--host=127.0.0.1", f"--port={port}"]
        super().__init__(command, root, root / "server.txt", self.environment)

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            urllib.request.urlopen(f"{self.environment['PREFECT_API_URL']}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def ask(self, path: str, **content: Any) -> Any:
        """What it answers to this, posted as JSON."""
        with api(self.environment["PREFECT_API_URL"]) as client:
            answer = client.post(path, json=content)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def create_pool(self, name: str) -> None:
        """Make a pool for process workers."""
        command = [sys.executable, "-m", "prefect", "work-pool", "create", name, "--type=process"]
        subprocess.run(command, env={**os.environ, **self.environment}, check=True, capture_output=True)

    def worker(self, pool: str, project: Path) -> Worker:
        """A worker of ``pool``, started in ``project`` as on a host of its own; for use as a context manager."""
        return Worker(pool, project, self.environment | {"PREFECT_HOME": str(project.parent / "worker-home")})


class Worker(Background):
    """A worker that looks for work every second, and says soon when it is there and when it is gone."""

    def __init__(self, pool: str, project: Path, environment: dict[str, str]) -> None:
        quick = {
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "4",  # after three of them unheard it is offline
            "PREFECT_LOGGING_LEVEL": "INFO",
        }
        command = ["worker", "start", f"--pool={pool}", "--limit=1"]
        log = project.parent / f"worker-{time.monotonic_ns()}.txt"
        super().__init__(command, project, log, environment | quick)

    def is_up(self) -> bool:
        """Whether it has told that it started."""
        return "started!" in self.log
