"""A team from nothing: servers, set-up, a model that somebody registers, its release, approval, bundle and audit.

The tests are one story, in the order in which they stand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import httpx
import mlflow
import numpy as np
import pytest
import torch
from dvc.repo import Repo
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from infra.stack import Stack
from slipway.stores.datasets import write_shards
from slipway.stores.registry import EVIDENCE_TAG, Registry
from slipway.stores.tracking import track
from slipway.triggers.signature import DELIVERY_ID, SIGNATURE, TIMESTAMP, signature
from slipway.wiring import workshop
from tests.e2e.project import ENGINE, NAME, TEST_DATA, target, write_params
from tests.integration.conftest import Command
from tests.integration.prefect_server import api
from tests.integration.seaweedfs import fetched
from tests.integration.team.conftest import StartStack

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]
PASSWORDS = {"ann": "ann/has:a-long@one", "bob": "bob/has:a-long@one"}
# Another session of a host that others use too may differ by more than any real threshold.
SETTINGS: dict[str, Any] = {
    "variants": ["fp32"],
    "latency": {"samples": 64, "budget_s": 5},
    "targets": target(max_regression=0.9),
    "approval": {"required": True},
}
SOON_SECONDS, RUN_SECONDS, COMMAND_SECONDS = 300.0, 600.0, 300.0
QUIET_SECONDS = 3.0  # an event becomes a run within one; the audit's test looks once more


class Team:
    """A project, all servers, and what people and their programs do with them."""

    def __init__(self, root: Path, stack: Stack) -> None:
        self.root, self.stack = root, stack
        told, admin = stack.environment, stack.admin_environment
        self.api = api(told["PREFECT_API_URL"], told["PREFECT_API_AUTH_STRING"])
        who = (admin["MLFLOW_ADMIN_USERNAME"], admin["MLFLOW_ADMIN_PASSWORD"])
        self.mlflow = httpx.Client(base_url=f"{told['MLFLOW_TRACKING_URI']}/api", auth=who, timeout=60)

    def set_up(self) -> dict[str, str]:
        """Run the set-up; what became of each thing."""
        done = subprocess.run(
            [sys.executable, "-m", "infra.setup", "--json", "--approver", "ann"],
            cwd=self.root,
            env={**os.environ, "SLIPWAY_PASSWORD_ANN": PASSWORDS["ann"]},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return {one["name"]: one["change"] for one in json.loads(done.stdout)["things"]}

    def environment_of(self, person: str) -> dict[str, str]:
        """What the person's shell holds."""
        known = {"MLFLOW_TRACKING_USERNAME": person, "MLFLOW_TRACKING_PASSWORD": PASSWORDS[person]}
        return {**self.stack.environment, **known}

    def register(self, person: str, seed: int) -> str:
        """Register a model of these random weights through MLflow's own client; its version."""
        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 5)).eval()
        described = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 64), name="x")]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 5), name="logits")]),
        )
        own = {"MLFLOW_EXPERIMENT_NAME": f"models of {person}"}
        with mock.patch.dict(os.environ, self.environment_of(person) | own):
            logged = mlflow.pytorch.log_model(
                module,
                name="model",
                signature=described,
                input_example=np.zeros((2, 64), np.float32),
                registered_model_name=NAME,
            )
        return str(logged.registered_model_version)

    def run(self, person: str, *words: str) -> tuple[int, Command]:
        """Run a command as that person; its exit code, and what it printed."""
        with Command(self.root, *words, **self.environment_of(person)) as command:
            return command.ended(), command

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment, the oldest first."""
        asked = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_ASC"}
        answer = self.api.post("/flow_runs/filter", json=asked)
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found

    def announced(self) -> list[dict[str, Any]]:
        """The releases that the webhook has started."""
        return [run for run in self.runs("release") if "webhook delivery" in run["parameters"]["reason"]]

    def start(self, deployment: str) -> dict[str, Any]:
        """Run the deployment ``FLOW/NAME`` to its end; the run."""
        made = self.api.get(f"/deployments/name/{deployment}").raise_for_status().json()["id"]
        answer = self.api.post(f"/deployments/{made}/create_flow_run", json={"state": {"type": "SCHEDULED"}})
        return self.ended(answer.raise_for_status().json()["id"])

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run, once it has come to an end."""

        def over() -> dict[str, Any] | None:
            run: dict[str, Any] = self.api.get(f"/flow_runs/{run_id}").raise_for_status().json()
            return run if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

        run: dict[str, Any] = wait_for(over, RUN_SECONDS, self.stack)
        return run

    def registered(self, version: str) -> tuple[dict[str, str], dict[str, str]]:
        """The aliases of the engine, and the tags of one version, as MLflow has them."""
        model = self.mlflow.get("/2.0/mlflow/registered-models/get", params={"name": ENGINE})
        aliases = model.raise_for_status().json()["registered_model"].get("aliases", [])
        asked = {"name": ENGINE, "version": version}
        answer = self.mlflow.get("/2.0/mlflow/model-versions/get", params=asked).raise_for_status()
        tags = answer.json()["model_version"].get("tags", [])
        return {one["alias"]: one["version"] for one in aliases}, {one["key"]: one["value"] for one in tags}

    def objects(self, bucket: str) -> dict[str, str]:
        """The sha256 of every object of a bucket."""
        told = self.stack.environment
        client = boto3.client(
            "s3",
            endpoint_url=told["AWS_ENDPOINT_URL"],
            aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
            region_name=told["AWS_DEFAULT_REGION"],
        )
        with closing(client):
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
            return {
                key: hashlib.sha256(client.get_object(Bucket=bucket, Key=key)["Body"].read()).hexdigest()
                for key in keys
            }

    @property
    def changes(self) -> list[dict[str, Any]]:
        """The lines of MLflow's log of changes."""
        file = self.root / ".slipway" / "stack" / "logs" / "mlflow-audit.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def wait_for(happened: Callable[[], Any], seconds: float, stack: Stack) -> Any:
    """What ``happened`` returns once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > deadline:
            pytest.fail("it did not happen; " + "\n".join(stack.service(one).log for one in ("receiver", "worker")))
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def team(start_stack: StartStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """All servers, with nothing in them, and a project that has data and no model."""
    root = tmp_path_factory.mktemp("journey")
    Repo.init(str(root), no_scm=True).close()
    drawn = np.random.default_rng(0)
    x, answers = drawn.normal(size=(200, 64)).astype(np.float32), drawn.integers(0, 5, 200)
    write_shards(root / TEST_DATA, {"x": x}, answers, shard_size=100)
    track(root / TEST_DATA)
    write_params(root, model=f"models:/{NAME}/1", **SETTINGS)
    shutil.copy2(REPOSITORY / "prefect.yaml", root)
    shared = Team(root, start_stack(root))
    with shared.api, shared.mlflow:
        yield shared


@pytest.fixture(scope="module")
def registry(team: Team) -> Iterator[Registry]:
    """The registry as the account of releases sees it."""
    with mock.patch.dict(os.environ, team.stack.environment):
        yield workshop(team.root).registry


def test_the_set_up_makes_everything_once(team: Team) -> None:
    made = team.set_up()
    assert made["webhook slipway"] == made["bucket slipway"] == made["deployment release"] == "created"
    assert made[f"permission of ann: EDIT on registered model {ENGINE}"] == "changed", "from READ, which all have"
    again = team.set_up()
    assert set(again.values()) == {"there already"}
    assert again.keys() >= made.keys()


def test_schedules_create_runs_by_themselves(team: Team) -> None:
    """An SQLAlchemy that Prefect cannot use would leave it at the schedules, and tell nobody."""

    def scheduled(deployment: str) -> list[str]:
        runs = [run for run in team.runs(deployment) if run["auto_scheduled"] and run["state_type"] == "SCHEDULED"]
        return sorted(run["expected_start_time"] for run in runs)

    hours = [
        datetime.fromisoformat(when) for when in wait_for(lambda: scheduled("reconcile"), SOON_SECONDS, team.stack)
    ]
    nights = [datetime.fromisoformat(when) for when in wait_for(lambda: scheduled("audit"), SOON_SECONDS, team.stack)]
    assert len(hours) > 1
    assert {(when.minute, when.second) for when in hours} == {(7, 0)}
    assert {(when.hour, when.minute) for when in nights} == {(1, 30)}
    assert not scheduled("release"), "its schedule is off"
    # From here on nothing happens by the clock.
    for deployment in ("reconcile/reconcile", "audit/audit"):
        found = team.api.get(f"/deployments/name/{deployment}").json()
        for schedule in found["schedules"]:
            path = f"/deployments/{found['id']}/schedules/{schedule['id']}"
            team.api.patch(path, json={"active": False}).raise_for_status()


def test_who_registers_a_version_starts_its_release(
    team: Team, registry: Registry, record_testsuite_property: Callable[[str, object], None]
) -> None:
    bob = {"username": "bob", "password": PASSWORDS["bob"]}
    team.mlflow.post("/2.0/mlflow/users/create", json=bob).raise_for_status()
    began = time.time()
    assert team.register("bob", seed=0) == "1"
    registered = time.time()

    (run,) = wait_for(team.announced, SOON_SECONDS, team.stack)
    run = team.ended(run["id"])

    since = {name: datetime.fromisoformat(run[name]).timestamp() - registered for name in ("created", "start_time")}
    since |= {
        "registering": registered - began,
        "end_time": datetime.fromisoformat(run["end_time"]).timestamp() - registered,
    }
    record_testsuite_property("journey_seconds", {name: round(seconds, 1) for name, seconds in since.items()})
    assert run["parameters"]["model"] == f"models:/{NAME}/1"
    for _ in range(2):
        if run["state_name"] == "INCONCLUSIVE":  # on a busy host latency may not settle at once
            run = team.start("release-version/release")
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "PASS"), run["state"]["message"]
    assert team.registered("1")[0] == {"challenger": "1"}
    engine = registry.version(ENGINE, "1")
    bytes_in_s3 = set(team.objects("mlflow").values())
    assert {engine.digest, engine.tags[EVIDENCE_TAG]} <= bytes_in_s3


def test_a_webhook_that_is_delivered_three_times_starts_one_run(team: Team) -> None:
    with closing(sqlite3.connect(team.root / ".slipway" / "deliveries.db")) as kept:
        asked = "SELECT delivery_id, body FROM deliveries WHERE kind = 'release'"
        ((delivery_id, body),) = kept.execute(asked).fetchall()
    told = team.stack.environment
    outcomes = []
    # The last one as another webhook of the same version would be.
    for sent_as in (delivery_id, delivery_id, "another-delivery"):
        now = str(int(time.time()))
        signed = signature(told["SLIPWAY_WEBHOOK_SECRET"], sent_as, now, body)
        headers = {SIGNATURE: signed, TIMESTAMP: now, DELIVERY_ID: sent_as, "Content-Type": "application/json"}
        answer = httpx.post(told["SLIPWAY_WEBHOOK_URL"], content=body, headers=headers, timeout=60)
        outcomes.append(answer.raise_for_status().json()["outcome"])

    assert outcomes == ["seen already", "seen already", "accepted"]

    def handed_over() -> bool:
        health = httpx.get(told["SLIPWAY_WEBHOOK_URL"].replace("/mlflow", "/health"), timeout=60)
        return bool(health.raise_for_status().json()["pending"] == 0)

    wait_for(handed_over, SOON_SECONDS, team.stack)
    time.sleep(QUIET_SECONDS)
    assert len(team.announced()) == 1


def test_who_may_not_approve_changes_nothing_and_who_may_promotes(team: Team) -> None:
    before, since = team.registered("1"), len(team.changes)
    code, command = team.run("bob", "approve", ENGINE, "1", "--reason", "I made it", "--json")
    assert code == 3, command.stderr
    assert "does not let bob do this" in command.object["error"]
    assert "Traceback" not in command.stderr
    assert team.registered("1") == before

    code, command = team.run("ann", "approve", ENGINE, "1", "--reason", "agrees with the report", "--json")
    assert (code, command.object["verdict"]) == (0, "PASS"), command.stderr
    aliases, tags = team.registered("1")
    assert aliases["champion"] == "1"
    assert (tags["slipway.decision"], tags["slipway.approver"]) == ("promoted", "ann")
    assert tags["slipway.reason"] == "agrees with the report"
    assert abs(datetime.fromisoformat(tags["slipway.decided_at"]).timestamp() - time.time()) < 60
    lines = [line for line in team.changes[since:] if line["what"].get("name") == ENGINE]
    assert {line["user"] for line in lines if line["status"] == 200} == {"ann"}
    assert "champion" in [line["what"].get("alias") for line in lines if line["user"] == "ann"]
    assert {line["status"] for line in lines if line["user"] == "bob"} == {403}


def test_the_champion_goes_to_a_device_that_has_no_key(team: Team) -> None:
    code, published = team.run("ann", "step", "publish", NAME, "--target=x86", "--format=bundle", "--json")
    assert code == 0, published.stderr
    code, linked = team.run("ann", "link", NAME, "--target=x86", "--expires=10m", "--json")
    assert code == 0, linked.stderr
    links = {one["name"]: one for one in linked.object["links"]}
    assert {"manifest.json", "evidence.json"} < links.keys()
    assert any(name.startswith("engine/") for name in links)
    for one in links.values():
        status, content = fetched(one["url"])
        assert (status, hashlib.sha256(content).hexdigest(), len(content)) == (200, one["sha256"], one["size_bytes"])
    folder = f"engines/{NAME}/x86/{linked.object['digest']}/"
    assert team.objects("slipway") == {f"{folder}{name}": one["sha256"] for name, one in links.items()}


def test_an_audit_finds_that_the_champion_holds(team: Team) -> None:
    looks = (team.start("audit/audit") for _ in range(3))  # on a busy host latency may not settle at once
    run = next((one for one in looks if one["state_name"] != "INCONCLUSIVE"), None)

    assert run is not None, "none of three looks settled"
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "PASS"), run["state"]["message"]
    assert team.registered("1")[1]["slipway.audit"] == "PASS"
    assert len(team.announced()) == 1, "of all the deliveries above"


def test_what_was_registered_while_the_receiver_was_away_is_found(team: Team) -> None:
    receiver = team.stack.service("receiver")
    receiver.stop()
    assert team.register("bob", seed=1) == "2"

    run = team.start("reconcile/reconcile")

    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["state"]["message"] == f"asked for {NAME} version 2"

    def found() -> list[str]:
        runs = [one["parameters"] for one in team.runs("release")]
        return [one["reason"] for one in runs if one["model"] == f"models:/{NAME}/2"]

    assert wait_for(found, SOON_SECONDS, team.stack) == ["reconcile: it was never released"]
