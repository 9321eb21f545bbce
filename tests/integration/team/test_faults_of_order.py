"""Servers of order that fail in the middle of a release: it comes to its end, and nothing is lost or done twice."""

from __future__ import annotations

import contextvars
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from infra.stack import Stack
from infra.stack.services import Service
from slipway.wiring import workshop
from tasks.slots import slot
from tests.e2e.project import ENGINE, NAME, SIGNATURE, make_project, write_params
from tests.integration.team.conftest import StartStack

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LOGGER = logging.getLogger(__name__)
REPOSITORY = Path(__file__).parents[3]
DEAD = "slipway: a run whose worker died is crashed"
CHANGEABLE = ("name", "description", "enabled", "trigger", "actions")
SILENT_SECONDS = 75.0  # two heartbeats, which are 30 s apart at the least
# Long enough for a fault in the middle: a benchmark takes some 15 s.
LONG = {
    "variants": ["fp32"],
    "latency": {"samples": 1000, "budget_s": 60},
    "targets": {"x86": {"engines": ["onnxruntime"]}},
}
END_SECONDS, STEP_SECONDS, COMMAND_SECONDS = 600.0, 300.0, 300.0
AWAY_SECONDS = 20.0
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Team:
    """A project whose servers are up, and what became of its releases."""

    def __init__(self, root: Path, stack: Stack) -> None:
        self.root, self.stack = root, stack
        known = stack.environment
        who = httpx.BasicAuth(*known["PREFECT_API_AUTH_STRING"].split(":", 1))
        self.api = httpx.Client(base_url=known["PREFECT_API_URL"], auth=who, timeout=60)

    def register(self, seed: int) -> str:
        """Register a model of its own; its version."""
        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 5)).eval()
        example = {"x": torch.randn(2, 64).numpy()}
        return str(workshop(self.root).registry.log_model(module, SIGNATURE, example, NAME).version)

    def answer(self, method: str, path: str, **asked: Any) -> Any:
        """What Prefect answers, once it does."""
        return wait_for(lambda: self._tried(method, path, **asked), STEP_SECONDS)[0]

    def _tried(self, method: str, path: str, **asked: Any) -> list[Any]:
        try:
            answer = self.api.request(method, path, **asked)
        except httpx.TransportError:
            return []
        return [answer.json() if answer.content else None] if answer.is_success else []

    def runs(self, deployment: str, **parameters: Any) -> list[dict[str, Any]]:
        """The runs of a deployment with these parameters, the oldest first; not those of its schedule."""
        asked = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = [run for run in self.answer("POST", "/flow_runs/filter", json=asked) if not run["auto_scheduled"]]
        return [run for run in found if parameters.items() <= run["parameters"].items()]

    def releases(self, version: str) -> list[dict[str, Any]]:
        """The runs that released a version."""
        return self.runs("release", model=f"models:/{NAME}/{version}")

    def released(self, version: str, runs: int = 1) -> list[dict[str, Any]]:
        """The runs that released a version, once there are so many and all have ended."""

        def ended() -> list[dict[str, Any]]:
            found = self.releases(version)
            return found if len(found) >= runs and all(run["state_type"] in ENDS for run in found) else []

        found: list[dict[str, Any]] = wait_for(ended, END_SECONDS)
        return found

    def requests(self, version: str) -> list[str]:
        """Why a version's release was asked for, the oldest first."""
        asked = {"filter": {"event": {"name": ["slipway.release.requested"]}, "order": "ASC"}, "limit": 50}
        payloads = [one["payload"] for one in self.answer("POST", "/events/filter", json=asked)["events"]]
        return [one["reason"] for one in payloads if one["model"] == f"models:/{NAME}/{version}"]

    def tasks(self, run: dict[str, Any]) -> dict[str, str]:
        """How each step of a run ended, as Prefect shows it."""
        asked = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        return {task["name"]: task["state_name"] for task in self.answer("POST", "/task_runs/filter", json=asked)}

    def engines(self) -> list[str]:
        """From which version of the model each registered engine comes, the oldest first."""
        registry = workshop(self.root).registry
        connection = registry._connection
        found = connection.client.search_model_versions(f"name = '{ENGINE}'")
        return [one.tags["slipway.source_model"] for one in sorted(found, key=lambda one: int(one.version))]

    def records(self, version: str) -> int:
        """How many releases of a version the registry has written down."""
        return sum(one.version == version for one in workshop(self.root).registry.released(NAME))

    def stop_the_clock(self) -> None:
        """Let only the tests start runs."""
        for deployment in self.answer("POST", "/deployments/filter", json={}):
            for schedule in deployment["schedules"]:
                path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
                self.answer("PATCH", path, json={"active": False})

    def reconcile(self) -> str:
        """Run reconcile as its schedule would; what it told."""
        where = self.answer("GET", "/deployments/name/reconcile/reconcile")["id"]
        made = self.answer("POST", f"/deployments/{where}/create_flow_run", json={"state": {"type": "SCHEDULED"}})["id"]

        def ended() -> Any:
            found = self.answer("GET", f"/flow_runs/{made}")
            return found["state"] if found["state_type"] in ENDS else None

        return str(wait_for(ended, END_SECONDS)["message"])

    def at(self, step: str) -> Callable[[], None]:
        """A wait for a step of the release that comes next, told in the worker's log."""
        before = len(self.stack.service("worker").log)

        def reached() -> None:
            wait_for(lambda: re.search(step, self.stack.service("worker").log[before:]), STEP_SECONDS)

        return reached


def wait_for(happened: Callable[[], Any], seconds: float) -> Any:
    """What ``happened`` returns once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def team(start_stack: StartStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """All servers and the set-up, with a model that was registered while the receiver was down."""
    root = tmp_path_factory.mktemp("team")
    shutil.copy2(REPOSITORY / "prefect.yaml", root)
    write_params(root, **LONG)
    stack = start_stack(root)
    command = [sys.executable, "-m", "infra.setup"]
    subprocess.run(command, cwd=root, env=surroundings(stack), check=True, timeout=COMMAND_SECONDS)
    with pytest.MonkeyPatch.context() as here:
        for name, value in stack.environment.items():
            here.setenv(name, value)
        known = stack.environment
        with temporary_settings({one: known[one.name] for one in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}):
            team = Team(root, stack)
            team.stop_the_clock()
            receiver, mlflow = stack.service("receiver"), stack.service("mlflow")
            receiver.stop()
            make_project(root)
            write_params(root, **LONG)
            wait_for(lambda: re.search("Webhook request to .* failed", mlflow.log), STEP_SECONDS)
            receiver.start()
            yield team
            team.api.close()


def surroundings(stack: Stack) -> dict[str, str]:
    """What a command needs that is run in the project."""
    return {**os.environ, **stack.environment, **stack.admin_environment, "PYTHONPATH": str(REPOSITORY)}


def told(what: str, since: float) -> None:
    """Leave a figure in the test's log."""
    LOGGER.info("%s %.1f s", what, time.monotonic() - since)


def test_what_was_registered_while_the_receiver_was_down_is_asked_for_once(team: Team) -> None:
    """MLflow tried for some seconds, and forgot it."""
    assert team.requests("1") == []
    assert team.reconcile() == f"asked for {NAME} version 1"

    (run,) = team.released("1")
    assert run["state_name"] == "PASS", run["state"]
    assert_released_once(team, "1")
    assert team.requests("1") == ["reconcile: it was never released"]


def test_a_release_outlasts_prefects_api(team: Team) -> None:
    """It goes on without it: what it has to tell is told afterwards."""
    benchmarks, api = team.at("target x86: benchmark running"), team.stack.service("prefect-api")
    version = team.register(2)
    benchmarks()
    api.kill()
    time.sleep(AWAY_SECONDS)
    assert team.stack.service("worker").running
    api.start()
    back = time.monotonic()

    (run,) = team.released(version)

    told("after Prefect's API was back the release ended within", back)
    assert run["state_name"] == "PASS", run["state"]
    assert set(wait_for(lambda: ended(team.tasks(run)), STEP_SECONDS).values()) <= {"Completed", "Cached"}
    assert_released_once(team, version)


def test_a_release_whose_worker_was_killed_is_done_again(team: Team) -> None:
    """Prefect hears no more of it, crashes it, looks what is missing, and asks for it; a fresh worker goes on."""
    (dead,) = [one for one in team.answer("POST", "/automations/filter", json={}) if one["name"] == DEAD]
    path, declared = f"/automations/{dead['id']}", {field: dead[field] for field in CHANGEABLE}
    team.answer("PUT", path, json=declared | {"trigger": dead["trigger"] | {"within": SILENT_SECONDS}})
    benchmarks, worker = team.at("target x86: benchmark running"), team.stack.service("worker")
    version = team.register(4)
    benchmarks()
    killed = time.monotonic()
    worker.kill()
    (run,) = team.releases(version)
    assert run["state_type"] == "RUNNING", "of which nobody tells Prefect yet"
    worker.start()

    wait_for(lambda: team.releases(version)[0]["state_type"] == "CRASHED", STEP_SECONDS)
    told("its run was Crashed within", killed)
    team.answer("PUT", path, json=declared)  # on a busy host a run may be silent for longer than that
    crashed, done = team.released(version, runs=2)
    told("and released on a fresh worker within", killed)

    assert crashed["state"]["message"].startswith("no heartbeat for")
    assert done["state_name"] == "PASS", done["state"]
    announced, missed = team.requests(version)
    assert announced.startswith(f"model version {version} of {NAME} was registered")
    assert missed == "reconcile: it was never released, attempt 2"
    steps = wait_for(lambda: ended(team.tasks(done)), STEP_SECONDS)
    cached = {name for name, state in steps.items() if state == "Cached"}
    assert cached >= {"fetch model", "export fp32 onnx", "build fp32/onnxruntime", "validate fp32/onnxruntime"}
    assert_released_once(team, version, requests=2)


def test_a_release_outlasts_restarts_of_postgresql_and_redis(team: Team) -> None:
    """Also at its very end, when Prefect cannot take the state in which it ended.

    The last of these tests: what Prefect does by the clock may pause for minutes after its Redis was away.
    """
    builds, promotes = team.at("build running"), team.at("promote running")
    version = team.register(3)
    builds()
    with restarted(team.stack.service("postgres")):
        time.sleep(5)
    with asking_for_a_slot("probe") as had:
        assert had.wait(STEP_SECONDS)
    promotes()
    with restarted(team.stack.service("redis")), asking_for_a_slot("probe") as had:
        time.sleep(5)
        assert not had.is_set()
    back = time.monotonic()
    # One that was counted while no lease could be made would stay taken for ever.
    assert had.wait(STEP_SECONDS)
    told("after Redis was back a slot was had within", back)

    (run,) = team.released(version)

    told("after Redis was back the release ended within", back)
    assert run["state_name"] == "PASS", run["state"]
    assert_released_once(team, version)


def ended(tasks: dict[str, str]) -> dict[str, str]:
    """The tasks, once each of them has ended: their states reach Prefect some seconds after they happened."""
    return tasks if "Running" not in tasks.values() and "promote" in " ".join(tasks) else {}


def assert_released_once(team: Team, version: str, requests: int = 1) -> None:
    """One engine and one record of as many requests as there were causes, and nothing else that is due."""
    assert len(team.requests(version)) == len(team.releases(version)) == requests
    assert team.engines().count(f"models:/{NAME}/{version}") == 1
    assert team.records(version) == 1
    assert team.reconcile() == "nothing is due"


@contextmanager
def restarted(service: Service) -> Iterator[None]:
    """Let a server be away during the block."""
    service.kill()
    yield
    service.start()


@contextmanager
def asking_for_a_slot(name: str) -> Iterator[threading.Event]:
    """Ask for a slot beside the block; the event tells that it was had."""
    had = threading.Event()

    def hold() -> None:
        with slot(name, lambda _: None):
            had.set()

    asking = contextvars.copy_context().run  # whose settings name the server
    threading.Thread(target=asking, args=(hold,), daemon=True).start()
    yield had
