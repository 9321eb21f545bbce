"""The set-up on real servers: made once, left alone the second time; what it made does what it is there for."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography.fernet import Fernet
from prefect.settings import PREFECT_API_URL, temporary_settings

from slipway.records import ReleaseRequest
from tasks.events import ask_for_release
from tests.e2e.project import ENGINE, MODEL_URI, NAME, write_params
from tests.integration.conftest import MlflowServer
from tests.integration.prefect_server import PrefectServer, api
from tests.integration.seaweedfs import SeaweedFs

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]
PASSWORDS = {"admin": "admin/has:a-long@one", "slipway": "slipway/has:a-long@one", "ann": "ann/has:a-long@one"}
CONFIG = """[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{root}/users.db
admin_username = admin
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 3600
"""
TARGETS = {"x86": {"engines": ["onnxruntime"]}, "far": {"engines": ["onnxruntime"], "work_pool": "board"}}
RELEASE = "slipway: release what was asked for"
DEAD = "slipway: a run whose worker died is crashed"
CHANGEABLE = ("name", "description", "enabled", "trigger", "actions")
SILENT_SECONDS = 75.0  # two heartbeats, which are 30 s apart at the least: a test has no outage to bear
# A run of the flow whose crash is to be looked at again.
BEATING = """
import sys, time
from prefect import flow

@flow(name="release-version", flow_run_name=sys.argv[1])
def beating() -> None:
    time.sleep(600)

beating()
"""
WAIT_SECONDS, CRASH_SECONDS, COMMAND_SECONDS = 300.0, 300.0, 300.0


class StrictMlflow(MlflowServer):
    """An MLflow server where nobody may do anything unless it was granted, and which may call this host."""

    def __init__(self, root: Path) -> None:
        config = root / "users.ini"
        config.write_text(CONFIG.format(root=root, password=PASSWORDS["admin"]), encoding="utf-8")
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "known to this server alone",
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        }
        super().__init__(root, "--app-name=basic-auth", log="mlflow.txt", **environment)


class Team:
    """A project and its servers, and what people do with them."""

    def __init__(self, root: Path, prefect: PrefectServer, mlflow: MlflowServer) -> None:
        self.root, self.mlflow = root, mlflow
        self.api = api(prefect.environment["PREFECT_API_URL"])
        self.registry = httpx.Client(base_url=f"{mlflow.uri}/api", auth=("admin", PASSWORDS["admin"]), timeout=120)
        self.environment = {
            **prefect.environment,
            "MLFLOW_TRACKING_URI": mlflow.uri,
            "MLFLOW_TRACKING_USERNAME": "slipway",
            "MLFLOW_TRACKING_PASSWORD": PASSWORDS["slipway"],
            "MLFLOW_ADMIN_USERNAME": "admin",
            "MLFLOW_ADMIN_PASSWORD": PASSWORDS["admin"],
            "SLIPWAY_PASSWORD_ANN": PASSWORDS["ann"],
            "SLIPWAY_WEBHOOK_URL": "http://127.0.0.1:8123/mlflow",
            "SLIPWAY_WEBHOOK_SECRET": "known to both",
        }

    def set_up(self, *arguments: str, **environment: str) -> tuple[int, dict[str, str], str]:
        """Run the set-up; its exit code, what became of each thing, and stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "infra.setup", "--json", "--approver", "ann", *arguments],
            cwd=self.root,
            env={**psutil.Process().environ(), **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        found = json.loads(done.stdout)
        assert found["exit_code"] == done.returncode
        return done.returncode, {one["name"]: one["change"] for one in found["things"]}, done.stderr

    def listed(self, kind: str, **asked: Any) -> list[dict[str, Any]]:
        """All things of a kind that Prefect has."""
        answer = self.api.post(f"/{kind}/filter", json=asked)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def one(self, kind: str, name: str) -> dict[str, Any]:
        """The one thing of that name."""
        (found,) = [one for one in self.listed(kind) if one["name"] == name]
        return found

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment that something has started: not those of its schedule."""
        asked = {"deployments": {"name": {"any_": [deployment]}}}
        return [run for run in self.listed("flow_runs", **asked) if not run["auto_scheduled"]]

    def asked(self, path: str, **asked: str) -> Any:
        """What MLflow answers its administrator."""
        answer = self.registry.get(path, params=asked)
        answer.raise_for_status()
        return answer.json()

    def state(self) -> dict[str, Any]:
        """Everything that the servers hold, with the times of its last change."""
        kinds = ("work_pools", "work_queues", "flows", "deployments", "automations")
        prefect = {kind: sorted(self.listed(kind), key=lambda one: str(one["id"])) for kind in kinds}
        for pool in prefect["work_pools"]:
            pool.pop("status")  # of its workers, none of which runs
        users = [one["username"] for one in self.asked("2.0/mlflow/users/list")["users"]]
        permissions = "3.0/mlflow/users/permissions/list"
        return {
            **prefect,
            "users": users,
            "permissions": {user: self.asked(permissions, username=user) for user in users},
            "models": self.asked("2.0/mlflow/registered-models/search"),
            "experiments": self.asked("2.0/mlflow/experiments/search", max_results="100"),
            "webhooks": self.asked("2.0/mlflow/webhooks"),
        }

    def request(self, version: int, key: str, **fields: Any) -> None:
        """Ask for a release, as the receiver does."""
        with temporary_settings({PREFECT_API_URL: self.environment["PREFECT_API_URL"]}):
            model = f"models:/{NAME}/{version}"
            ask_for_release(ReleaseRequest(model=model, params="params.yaml", reason="a test", **fields), key)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Servers that are up, with nothing in them."""
    home = tmp_path_factory.mktemp("servers")
    root = tmp_path_factory.mktemp("project")
    write_params(root, targets=TARGETS)
    shutil.copy2(REPOSITORY / "prefect.yaml", root)
    mlflow = StrictMlflow(home)
    with PrefectServer(home) as prefect, mlflow:
        shared = Team(root, prefect, mlflow)
        yield shared
        shared.api.close()
        shared.registry.close()


@pytest.fixture(scope="module")
def made(team: Team) -> dict[str, str]:
    """What became of each thing the first time."""
    code, things, told = team.set_up()
    assert code == 0, told
    return things


@contextlib.contextmanager
def beating(team: Team, name: str) -> Iterator[psutil.Popen]:
    """A run of that name with heartbeats, the first of which was heard."""

    def heard() -> bool:
        beats = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        events = team.api.post("/events/filter", json=beats).json()["events"]
        return any(event["resource"]["prefect.resource.name"] == name for event in events)

    process = psutil.Popen(
        [sys.executable, "-c", BEATING, name],
        cwd=team.root,
        env={**psutil.Process().environ(), **team.environment, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(heard, WAIT_SECONDS)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(happened: Callable[[], Any], seconds: float) -> Any:
    """What ``happened`` returns once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.5)
    return found


def test_everything_is_made_once(team: Team, made: dict[str, str]) -> None:
    assert made.pop("S3") == "skipped"
    permissions = {made.pop(name) for name in list(made) if name.startswith("permission of slipway: MANAGE")}
    assert permissions == {"there already"}  # MLflow gives it to whoever makes a thing
    assert set(made.values()) == {"created"}
    before = team.state()
    assert {pool["name"] for pool in before["work_pools"]} == {"slipway", "board"}
    deployments = {one["name"]: one["entrypoint"] for one in before["deployments"] if one["name"] != "board"}
    assert deployments.keys() == {"release", "rollout", "promote", "audit", "reconcile"}
    (builds,) = team.listed("deployments", flows={"name": {"any_": ["build-on-target"]}})
    assert (builds["work_pool_name"], builds["entrypoint"]) == ("board", "flows.build_on_target.build_on_target")
    assert before["webhooks"]["webhooks"][0]["url"] == team.environment["SLIPWAY_WEBHOOK_URL"]

    code, things, told = team.set_up()
    assert code == 0, told
    assert things.pop("S3") == "skipped"
    assert things.keys() >= made.keys()
    assert set(things.values()) == {"there already"}
    assert team.state() == before


def test_who_may_do_what(team: Team, made: dict[str, str]) -> None:
    def may(user: str, kind: str, resource: str) -> str:
        asked = {"username": user, "resource_type": kind, "resource_id": resource}
        return str(team.asked("3.0/mlflow/users/permissions/get", **asked)["permission"])

    for engine in (ENGINE, f"{NAME}.far"):
        assert may("ann", "registered_model", engine) == "EDIT"
        assert may("slipway", "registered_model", engine) == "MANAGE"
    experiment = team.asked("2.0/mlflow/experiments/get-by-name", experiment_name="slipway")["experiment"]
    assert may("ann", "experiment", experiment["experiment_id"]) == "READ"
    for user in ("ann", "slipway"):
        httpx.get(f"{team.mlflow.uri}/api/2.0/mlflow/users/current", auth=(user, PASSWORDS[user])).raise_for_status()


def test_a_request_becomes_one_run_with_its_parameters(team: Team, made: dict[str, str]) -> None:
    team.request(1, "first", fresh=True)
    wait_for(lambda: team.runs("release"), WAIT_SECONDS)
    team.request(1, "first", fresh=True)
    team.request(2, "second")
    wait_for(lambda: len(team.runs("release")) > 1, WAIT_SECONDS)
    time.sleep(2)  # the event that was told twice was handled before the second one

    runs = sorted((run["parameters"] for run in team.runs("release")), key=lambda one: str(one["model"]))
    common = {"params": "params.yaml", "reason": "a test"}
    assert runs == [
        common | {"model": MODEL_URI, "fresh": True},
        common | {"model": f"models:/{NAME}/2", "fresh": False},
    ]


def test_what_people_set_stays_and_what_was_declared_comes_back(team: Team, made: dict[str, str]) -> None:
    automation, audit = team.one("automations", RELEASE), team.one("deployments", "audit")
    webhook = team.asked("2.0/mlflow/webhooks")["webhooks"][0]["webhook_id"]
    schedule = f"/deployments/{audit['id']}/schedules/{audit['schedules'][0]['id']}"
    team.api.patch(f"/automations/{automation['id']}", json={"enabled": False}).raise_for_status()
    team.api.patch(schedule, json={"active": False}).raise_for_status()
    team.api.patch("/work_pools/board", json={"concurrency_limit": 1}).raise_for_status()
    team.registry.patch(f"2.0/mlflow/webhooks/{webhook}", json={"status": "DISABLED"}).raise_for_status()
    before = team.state()
    code, things, told = team.set_up()
    assert (code, set(things.values())) == (0, {"there already", "skipped"}), told
    assert team.state() == before

    team.api.patch(schedule, json={"schedule": {"cron": "0 0 * * *", "timezone": "UTC"}}).raise_for_status()
    team.api.patch(f"/deployments/{audit['id']}", json={"tags": ["other"]}).raise_for_status()
    spoilt = automation | {"enabled": False, "trigger": automation["trigger"] | {"expect": ["other"]}}
    changed = {field: spoilt[field] for field in CHANGEABLE}
    team.api.put(f"/automations/{automation['id']}", json=changed).raise_for_status()
    code, things, told = team.set_up(SLIPWAY_WEBHOOK_SECRET="another", MLFLOW_TRACKING_PASSWORD="another/long@one")
    assert code == 0, told
    assert {name for name, change in things.items() if change == "changed"} == {
        "deployment audit",
        f"automation {RELEASE}",
        "webhook slipway",
        "user slipway",
    }
    assert not team.one("automations", RELEASE)["enabled"]
    assert team.one("automations", RELEASE)["trigger"]["expect"] == automation["trigger"]["expect"]
    (audited,) = team.one("deployments", "audit")["schedules"]
    assert (audited["active"], audited["schedule"]["cron"]) == (False, "30 1 * * *")
    assert team.asked("2.0/mlflow/webhooks")["webhooks"][0]["status"] == "DISABLED"
    assert team.set_up()[1]["user slipway"] == "changed"
    assert set(team.set_up()[1].values()) == {"there already", "skipped"}


def test_a_server_that_is_down_does_not_stop_the_others(team: Team, made: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with SeaweedFs(tmp_path) as server:
        s3 = {**server.environment, "SLIPWAY_BUCKET": "team"}
        code, things, told = team.set_up(PREFECT_API_URL=f"{nobody}/api", MLFLOW_TRACKING_URI=nobody, **s3)
        assert (code, things) == (5, {"Prefect": "error", "MLflow": "error", "bucket team": "created"})
        assert f"slipway: Prefect: Prefect at {nobody}/api did not answer" in told
        assert f"slipway: MLflow: MLflow at {nobody} did not answer" in told
        assert "Traceback" not in told
        s3 |= {"PREFECT_API_URL": "", "MLFLOW_TRACKING_URI": ""}
        skipped = {"Prefect": "skipped", "MLflow": "skipped"}
        assert team.set_up(**s3)[:2] == (0, skipped | {"bucket team": "there already"})
        code, things, told = team.set_up(**s3 | {"AWS_SECRET_ACCESS_KEY": "wrong"})
        assert (code, things) == (2, skipped | {"bucket team": "error"})
        assert f"slipway: bucket team: S3 at {server.endpoint}, bucket team: the key is not accepted (Sign" in told


def test_wrong_keys_are_told_by_their_variables(team: Team, made: dict[str, str]) -> None:
    code, things, told = team.set_up(MLFLOW_ADMIN_PASSWORD="wrong")
    assert (code, things["MLflow"]) == (2, "error")
    assert "does not accept admin with this password; correct MLFLOW_ADMIN_USERNAME" in told
    code, _, told = team.set_up(MLFLOW_ADMIN_USERNAME="ann", MLFLOW_ADMIN_PASSWORD=PASSWORDS["ann"])
    assert code == 2
    assert "ann is no administrator of MLflow" in told


def test_a_run_without_heartbeats_crashes_and_is_looked_at_again(team: Team, made: dict[str, str]) -> None:
    def state(name: str) -> dict[str, Any]:
        found: dict[str, Any] = team.one("flow_runs", name)["state"]
        return found

    dead = team.one("automations", DEAD)
    assert dead["trigger"]["within"] == 150
    sooner = {field: dead[field] for field in CHANGEABLE} | {"trigger": dead["trigger"] | {"within": SILENT_SECONDS}}
    team.api.put(f"/automations/{dead['id']}", json=sooner).raise_for_status()
    with beating(team, "living"), beating(team, "killed") as process:
        process.kill()
        wait_for(lambda: state("killed")["type"] == "CRASHED", CRASH_SECONDS)
        assert state("killed")["message"].startswith("no heartbeat for 150 s: its worker was killed")
        assert state("living")["type"] == "RUNNING"
        assert len(wait_for(lambda: team.runs("reconcile"), WAIT_SECONDS)) == 1
