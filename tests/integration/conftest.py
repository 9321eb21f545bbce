"""The program as real processes: started in projects of their own, watched from outside, and never left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from tests.e2e.project import MODEL_URI, make_project
from tests.ports import free_port

WAIT_SECONDS = 300.0  # a host that is busy with other tests takes a third of it for a command that learns or releases
RELEASE_SECONDS = 600.0  # most of it for other benchmarks on this host, which a benchmark waits for
SERVER_SECONDS = 300.0
INCONCLUSIVE, TRIES = 4, 3
PROGRAM = str(Path(sys.executable).with_name("slipway"))


class Command:
    """One ``slipway`` command in a process group of its own; a context manager that ends all of it."""

    def __init__(self, root: Path, *arguments: str, **environment: str) -> None:
        place = Path(tempfile.mkdtemp(dir=root.parent, prefix="printed-"))
        self._stdout, self._stderr = place / "stdout", place / "stderr"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [PROGRAM, *arguments],
                cwd=root,
                env={**os.environ, **environment},
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = self.descendants()
        if self.runs():
            self._process.kill()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    @property
    def stdout(self) -> str:
        """What it printed there so far."""
        return self._stdout.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        """What it printed there so far."""
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    @property
    def object(self) -> dict[str, Any]:
        """The one JSON object on stdout; anything else there fails the test."""
        found = json.loads(self.stdout)
        assert isinstance(found, dict)
        return found

    def runs(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ended(self, within_seconds: float = WAIT_SECONDS) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait(within_seconds)

    def descendants(self) -> set[psutil.Process]:
        """Every process that it has started so far, wherever each hangs now."""
        with suppress(psutil.NoSuchProcess):
            self._seen |= set(psutil.Process(self._process.pid).children(recursive=True))
        return {process for process in self._seen if process.is_running()}

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Return at the moment that something has happened while it runs."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not happened():
            self.descendants()
            assert self.runs(), f"ended before that happened: {self.stderr}"
            assert time.monotonic() < deadline, f"it did not happen: {self.stderr}"
            time.sleep(0.05)

    def send(self, number: signal.Signals, *, to_group: bool = False) -> None:
        """Signal it alone, or as a terminal does its whole group."""
        self.descendants()
        (os.killpg if to_group else os.kill)(self._process.pid, number)

    def left(self, within_seconds: float = 60.0) -> set[psutil.Process]:
        """The processes that it left behind, once they had some time to end: one may have to import a lot before."""
        return set(psutil.wait_procs(self.descendants(), timeout=within_seconds)[1])


class Project:
    """A project and the commands that are run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self, *arguments: str, **environment: str) -> Command:
        """Start a command, for use as a context manager."""
        return Command(self.root, *arguments, **environment)

    def run(self, *arguments: str, **environment: str) -> tuple[int, Command]:
        """Run a command to its end; its exit code, and what it printed."""
        with self.start(*arguments, **environment) as command:
            return command.ended(), command

    def release(self, *options: str, **environment: str) -> Command:
        """Release the model, which has to promote an engine; what it printed.

        On a busy host latency may not settle at once, and is measured again then.
        """
        for _ in range(TRIES):
            with self.start("release", MODEL_URI, *options, **environment) as command:
                code = command.ended(RELEASE_SECONDS)
            if code != INCONCLUSIVE:
                break
        assert code == 0, command.stderr
        return command


class MlflowServer:
    """A real MLflow server on a free port of this host; a context manager."""

    def __init__(
        self, root: Path, *options: str, workers: int = 1, log: str = "server.txt", **environment: str
    ) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._log = root / log
        store, artifacts = f"sqlite:///{root}/server.db", f"--artifacts-destination={root}/artifacts"
        command = ["mlflow", "server", "--host=127.0.0.1", f"--port={port}", f"--workers={workers}", artifacts]
        with self._log.open("wb") as stream:
            self._process = psutil.Popen(
                [sys.executable, "-m", *command, f"--backend-store-uri={store}", *options],
                cwd=root,
                env={**os.environ, **environment},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + SERVER_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"the MLflow server did not start: {self.log}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End the server and its workers at once, as a fault would."""
        if self._process.is_running():
            for process in [*self._process.children(recursive=True), self._process]:
                process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_project(root)
    return root


@pytest.fixture
def project(_made: Path, tmp_path: Path) -> Project:
    """A project in which nothing was released yet."""
    root = tmp_path / "project"
    shutil.copytree(_made, root)
    return Project(root)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    """An MLflow server that is up."""
    with MlflowServer(tmp_path) as running:
        yield running
