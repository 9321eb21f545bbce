"""A release that is ended before its time, at any moment and in any way: the next one finishes it."""

from __future__ import annotations

import re
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing

import psutil
import pytest

from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.wiring import workshop
from tests.e2e.project import ENGINE, MODEL_URI, write_params
from tests.integration.conftest import Command, Project

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def run_statuses(project: Project) -> list[str]:
    """The status of every MLflow run, read beside whoever writes them."""
    with closing(sqlite3.connect(f"file:{project.root}/.slipway/mlflow.db?mode=ro", uri=True, timeout=10)) as store:
        return [status for (status,) in store.execute("SELECT status FROM runs")]


def is_timed(process: psutil.Process) -> bool:
    try:
        return "slipway.steps.timed_engine" in process.cmdline()
    except psutil.Error:
        return False


def moments(project: Project, command: Command) -> dict[str, Callable[[], bool]]:
    return {
        "build": lambda: re.search(r" build +done", command.stderr) is not None,
        "benchmark": lambda: any(is_timed(process) for process in command.descendants()),
        "register": lambda: "RUNNING" in run_statuses(project),
    }


def visible_versions(registry: MlflowRegistry) -> list[str]:
    """The versions of the engine, each read with its evidence, which fails where there is none."""
    found = registry._connection.versions(ENGINE)
    return [registry.version(ENGINE, str(version.version)).version for version in found]


def test_a_release_killed_at_any_moment_is_finished_by_the_next(project: Project) -> None:
    registry = workshop(project.root).registry
    for moment in ("build", "benchmark", "register"):
        with project.start("release", MODEL_URI) as command:
            command.wait_for(moments(project, command)[moment])
            command.send(signal.SIGKILL)
            command.ended()
            assert command.left() == set(), moment
        assert visible_versions(registry) == [], moment
    assert run_statuses(project).count("RUNNING") > 0

    code, finishing = project.run("release", MODEL_URI)

    assert code == 0, finishing.stderr
    for reused in (r"fetch +cached", r"fp32/onnxruntime +validate +cached", r"target x86 +benchmark +cached"):
        assert re.search(reused, finishing.stderr), reused
    assert visible_versions(registry) == ["1"]
    assert registry.champion(ENGINE) == "1"
    assert set(run_statuses(project)) == {"FINISHED", "KILLED"}


def test_ctrl_c_ends_a_release_in_seconds_and_holds_no_lock(project: Project) -> None:
    write_params(project.root, latency={"samples": 1_000_000})  # it would take minutes
    with project.start("release", MODEL_URI) as command:
        command.wait_for(lambda: " export " in command.stderr)

        code, second = project.run("release", MODEL_URI, "--json")
        assert code == 2
        assert second.object["error"] == "another release of tiny is running in this project; wait for it"

        command.send(signal.SIGINT, to_group=True)
        assert command.ended(within_seconds=60) == 130
        assert command.left() == set()
        assert command.stderr.count("interrupted; what is finished is kept") == 1
        assert "Traceback" not in command.stderr

    with project.start("release", MODEL_URI) as again:
        again.wait_for(lambda: re.search(r"fetch +cached", again.stderr) is not None)
