"""Stores that fail while a release writes to them: S3 and MLflow as real servers, and a disk that is full."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack import Stack
from slipway.wiring import workshop
from tests.e2e.project import ENGINE, MODEL_URI, make_project, write_params
from tests.integration import conftest
from tests.integration.conftest import Command, Project
from tests.integration.team.conftest import StartStack

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ERROR = 5
DOWN_SECONDS = 30.0
RELEASE_SECONDS = 600.0  # most of it for other benchmarks on this host, which a benchmark waits for
# With its own 5 retries the client tries for about a minute; the bound is the same sum of waits.
RETRIES, BOUND_SECONDS = 3, 120.0
DISK_MB, LEFT_BYTES = 16, 8192


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, start_stack: StartStack) -> Stack:
    return start_stack(tmp_path_factory.mktemp("servers"), "mlflow")


class Team:
    """A project whose stores are the stack's servers, and its releases; each describes one that none was before."""

    def __init__(self, root: Path, stack: Stack) -> None:
        self.root, self.stack, self._project, self._described = root, stack, Project(root), 0

    def describe(self, *engines: str) -> None:
        """Change a gate: what is judged, recorded and registered is new; what is built and timed may be cached."""
        self._described += 1
        write_params(
            self.root,
            variants=["fp32"],
            latency={"samples": 64, "budget_s": 5},
            accuracy={"metric": "top1", "max_drop": 0.1 + self._described / 100},
            targets={"x86": {"engines": ["onnxruntime", *engines]}},
        )

    def start(self, **environment: str) -> Command:
        return self._project.start("release", MODEL_URI, "--json", **environment)

    def released(self) -> None:
        """A release that has to complete."""
        self._project.release("--json")

    @property
    def versions(self) -> list[str]:
        """Every version of the engine in order, each read whole: evidence and engine have their digests."""
        registry = workshop(self.root).registry
        found = sorted((str(one.version) for one in registry._connection.versions(ENGINE)), key=int)
        with tempfile.TemporaryDirectory() as scratch:
            for version in found:
                into = Path(scratch, version)
                into.mkdir()
                assert registry.engine_path(ENGINE, version, into).stat().st_size > 0
        return found

    @property
    def champion(self) -> str | None:
        return workshop(self.root).registry.champion(ENGINE)

    @property
    def runs(self) -> Counter[str]:
        """How many runs of releases have each status."""
        connection = workshop(self.root).registry._connection
        found = connection.search_runs(connection.experiment("slipway"), "tags.`slipway.kind` = 'release'")
        return Counter(str(run.info.status) for run in found)


@pytest.fixture(scope="module")
def team(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A project with a champion."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in stack.environment.items():
            environment.setenv(name, value)
        # Its users are made by the set-up, which needs all servers.
        environment.setenv("MLFLOW_TRACKING_USERNAME", stack.admin_environment["MLFLOW_ADMIN_USERNAME"])
        environment.setenv("MLFLOW_TRACKING_PASSWORD", stack.admin_environment["MLFLOW_ADMIN_PASSWORD"])
        root = tmp_path_factory.mktemp("project")
        make_project(root)
        team = Team(root, stack)
        team.describe()
        team.released()
        assert (team.versions, team.champion) == (["1"], "1")
        yield team


def is_about_to_register(command: Command) -> bool:
    return re.search(r"report +done", command.stderr) is not None


def told(command: Command) -> str:
    """The one error, on stdout as on stderr."""
    (line,) = [line for line in command.stderr.splitlines() if line.startswith("slipway:")]
    error = str(command.object["error"])
    assert line == f"slipway: {error}"
    assert "Traceback" not in command.stderr
    return error


def test_a_release_outlives_s3s_absence_of_30_s(team: Team, stack: Stack) -> None:
    before, runs, s3 = team.versions, team.runs, stack.service("seaweedfs")
    team.describe()
    with team.start() as command:
        command.wait_for(lambda: is_about_to_register(command))
        s3.kill()
        time.sleep(DOWN_SECONDS)
        s3.start()
        assert command.ended(RELEASE_SECONDS) == 0, command.stderr

    (new,) = set(team.versions) - set(before)
    assert team.champion == new
    assert team.runs["FINISHED"] == runs["FINISHED"] + 1
    assert team.runs["RUNNING"] == 0


def test_without_s3_a_release_ends_in_one_error_and_the_next_completes(team: Team, stack: Stack) -> None:
    before, champion, runs, s3 = team.versions, team.champion, team.runs, stack.service("seaweedfs")
    team.describe()
    with team.start(MLFLOW_HTTP_REQUEST_MAX_RETRIES=str(RETRIES)) as command:
        command.wait_for(lambda: is_about_to_register(command))
        s3.kill()
        began = time.monotonic()
        assert command.ended(RELEASE_SECONDS) == ERROR
        assert time.monotonic() - began < BOUND_SECONDS

    server = stack.environment["MLFLOW_TRACKING_URI"]
    assert re.fullmatch(
        f"MLflow at {server} answers, but the store of its files does not "
        r"\(record release, \S+: too many 500 error responses\); check that its S3 is up, and look at the server's log",
        told(command),
    )
    s3.start()
    assert (team.versions, team.champion) == (before, champion)
    # Each of the two tries is a run that tells so.
    assert team.runs == runs + Counter(FAILED=2)

    team.released()

    (new,) = set(team.versions) - set(before)
    assert team.champion == new
    assert team.runs == runs + Counter(FAILED=2, FINISHED=1)


def test_a_release_outlives_mlflow_killed_as_it_registers_and_records_once(team: Team, stack: Stack) -> None:
    before, runs, mlflow = team.versions, team.runs, stack.service("mlflow")
    team.describe()
    with team.start() as command:
        command.wait_for(lambda: is_about_to_register(command))
        mlflow.kill()
        time.sleep(5)
        mlflow.start()
        assert command.ended(RELEASE_SECONDS) == 0, command.stderr

    (new,) = set(team.versions) - set(before)
    assert team.champion == new
    team.released()  # the same once more
    assert team.versions == [*before, new]
    assert team.runs["FINISHED"] == runs["FINISHED"] + 1
    assert team.runs["RUNNING"] == 0


class SmallDisk:
    """A file system of its own for one directory, which only the commands that enter it see; a context manager."""

    def __init__(self, directory: Path) -> None:
        words = f"mount -t tmpfs -o size={DISK_MB}m tmpfs '{directory}' && echo mounted && exec sleep infinity"
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout is not None
        first = self._holder.stdout.readline()
        if first != "mounted\n":
            self._holder.wait()
            pytest.skip(f"no file system can be mounted here: {first.strip()}")
        self.place = Path(f"/proc/{self._holder.pid}/root", *directory.resolve().parts[1:])
        self._ballast = self.place / "ballast"
        shutil.copytree(directory, self.place, dirs_exist_ok=True)

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.communicate()

    def program(self, file: Path) -> str:
        """A program like ``slipway`` that sees this disk."""
        enter = f"nsenter --target {self._holder.pid} --user --mount --preserve-credentials"
        # Who enters stands in its root.
        command = f"""exec {enter} sh -c 'cd "$0" && exec "$@"' "$PWD" {conftest.PROGRAM} "$@"\n"""
        file.write_text(f"#!/bin/sh\n{command}", encoding="utf-8")
        file.chmod(0o755)
        return str(file)

    def fill(self) -> None:
        """Leave less room than an engine takes."""
        free = shutil.disk_usage(self.place).free
        self._ballast.write_bytes(bytes(free - LEFT_BYTES))

    def clear(self) -> None:
        """Make room again."""
        self._ballast.unlink()

    @property
    def files(self) -> set[str]:
        """What the store of objects holds."""
        return {
            str(file.relative_to(self.place))
            for file in self.place.rglob("*")
            if file.is_file() and file != self._ballast
        }


def test_a_disk_full_while_an_engine_is_written(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, champion, runs = team.versions, team.champion, team.runs
    with SmallDisk(team.root / ".slipway" / "objects") as disk:
        monkeypatch.setattr(conftest, "PROGRAM", disk.program(tmp_path / "slipway"))
        kept = disk.files
        disk.fill()
        team.describe("openvino")  # from the same ONNX file, so that its engine is all that is written
        with team.start() as command:
            assert command.ended(RELEASE_SECONDS) == ERROR, command.stderr

        assert "No space left on device" in told(command)
        assert re.search("fp32/openvino +build +ERROR No space left on device", command.stderr)
        assert disk.files == kept
        assert (team.versions, team.champion, team.runs) == (before, champion, runs)

        disk.clear()
        team.released()

        (new,) = set(team.versions) - set(before)
        assert team.champion == new
        assert disk.files > kept
