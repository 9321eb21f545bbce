"""Who may decide on an engine, with MLflow's own users: what is refused is told in one line and changes nothing."""

from __future__ import annotations

import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from slipway.stores.datasets import write_shards
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.tracking import track, verify
from slipway.wiring import host_hardware, workshop
from tests.e2e.project import TEST_DATA, write_params
from tests.fakes.evidence import HARDWARE
from tests.integration.conftest import Command, MlflowServer, Project
from tests.integration.prefect_server import PrefectServer
from tests.unit.steps.registered import register_engine

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PASSWORDS = {"admin": "admin/has:a-long@one", "ann": "ann/has:a-long@one", "bob": "bob/has:a-long@one"}
CONFIG = """[mlflow]
default_permission = READ
database_uri = sqlite:///{root}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 3600
"""
VARIABLES = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


class GuardedServer(MlflowServer):
    """An MLflow server that asks everybody who they are."""

    def __init__(self, root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        self._log = root / "server.txt"
        config = root / "users.ini"
        config.write_text(CONFIG.format(root=root), encoding="utf-8")
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "known to this server alone",
        }
        command = ["mlflow", "server", "--app-name=basic-auth", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        places = [f"--artifacts-destination={root}/artifacts", f"--backend-store-uri=sqlite:///{root}/server.db"]
        with self._log.open("wb") as log:
            self._process = psutil.Popen(
                [sys.executable, "-m", *command, *places],
                cwd=root,
                env={**psutil.Process().environ(), **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def post(self, path: str, **fields: str) -> None:
        """Ask something as its administrator."""
        httpx.post(
            f"{self.uri}/api/{path}", json=fields, auth=("admin", PASSWORDS["admin"]), timeout=120
        ).raise_for_status()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    """A server that knows ann and bob."""
    with GuardedServer(tmp_path_factory.mktemp("guarded")) as server:
        for person in ("ann", "bob"):
            server.post("2.0/mlflow/users/create", username=person, password=PASSWORDS[person])
        yield server


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment of a Prefect server that is up, as quiet as the one that a command starts for itself."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        yield server.environment | {"PREFECT_LOGGING_LEVEL": "CRITICAL"}


class Office:
    """A project whose engines are on a server: its registry as the administrator sees it, its commands as anybody's."""

    def __init__(self, name: str, project: Project, server: GuardedServer, prefect: Mapping[str, str]) -> None:
        self.name, self.engine, self.root = name, f"{name}.x86", project.root
        self.registry: MlflowRegistry = workshop(project.root, server.uri).registry
        self._project, self._server, self._prefect = project, server, prefect
        self.printed: list[str] = []
        write_params(project.root, model=f"models:/{name}/1", targets={"x86": {"engines": ["onnxruntime"]}})

    def register(self, version: str, **changes: Any) -> None:
        """Register a version, measured on the data of today and this host unless changed."""
        fresh = {"hardware": host_hardware(), "data_md5": verify(self.root / TEST_DATA).md5}
        fresh["model_uri"] = f"models:/{self.name}/1"
        content = f"{self.name} {version}".encode()
        made = register_engine(self.registry, self.root.parent, self.engine, content, **(fresh | changes))
        assert made.version == version

    def grant(self) -> None:
        """Let ann edit the registered engine, and bob read it."""
        for person, permission in (("ann", "EDIT"), ("bob", "READ")):
            what = {"resource_type": "registered_model", "resource_id": self.engine}
            self._server.post("3.0/mlflow/users/permissions/grant", username=person, permission=permission, **what)

    def run(self, person: str, *words: str, **environment: str) -> tuple[int, Command]:
        """Run a command as that person; its exit code, and what it printed."""
        known = {"MLFLOW_TRACKING_USERNAME": person, "MLFLOW_TRACKING_PASSWORD": PASSWORDS.get(person, "")}
        where = {"MLFLOW_TRACKING_URI": self._server.uri, **self._prefect}
        code, command = self._project.run(*words, **(where | known | environment))
        self.printed += [command.stdout, command.stderr]
        return code, command

    def decide(self, person: str, word: str, version: str, **environment: str) -> tuple[int, Command]:
        """Approve or reject a version as that person."""
        told = ("--reason", f"{person} says so", "--json")
        return self.run(person, word, self.engine, version, *told, **environment)

    def state(self) -> dict[str, Any]:
        """The aliases as MLflow has them, and the tags of every version."""
        client = self.registry._connection.client
        found = client.search_model_versions(f"name = '{self.engine}'")
        return {
            "aliases": client.get_registered_model(self.engine).aliases,
            "tags": {version.version: dict(version.tags) for version in found},
        }

    def word(self, version: str) -> tuple[str | None, str | None]:
        """What was decided on a version, and by whom."""
        tags = self.registry.version(self.engine, version).tags
        return tags.get("slipway.decision"), tags.get("slipway.approver")


@pytest.fixture
def office(
    request: pytest.FixtureRequest,
    project: Project,
    guarded: GuardedServer,
    prefect: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Office]:
    """A project of its own; whatever was done in it, no password was printed or written down."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["admin"])
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))[:40]
    office = Office(name, project, guarded, prefect)
    yield office
    written = [file.read_bytes() for file in project.root.rglob("*") if file.is_file()]
    for password in PASSWORDS.values():
        assert not any(password in text for text in [*office.printed, guarded.log])
        assert not any(password.encode() in content for content in written)


def test_only_who_may_edit_decides(office: Office) -> None:
    for version in ("1", "2", "3"):
        office.register(version)
    office.grant()
    for version in ("1", "2"):
        office.registry.promote(office.engine, version, None, None)
    office.registry.set_challenger(office.engine, "3")
    before = office.state()

    rollback = ("rollback", office.name, "--target", "x86", "--json")
    refused = {
        f"promote {office.engine} 3": office.decide("bob", "approve", "3"),
        f"reject {office.engine} 3": office.decide("bob", "reject", "3"),
        f"rollback {office.engine}": office.run("bob", *rollback),
    }

    for asked, (code, command) in refused.items():
        assert code == 3, command.stderr
        assert command.object["error"] == (
            f"MLflow at {office.registry.tracking_uri} does not let bob do this ({asked}): Permission denied; ask for "
            "EDIT permission on the model or experiment, or set MLFLOW_TRACKING_USERNAME to somebody who has it"
        )
        assert command.stderr == f"slipway: {command.object['error']}\n"
    assert office.state() == before

    code, command = office.decide("ann", "approve", "3")
    assert (code, command.object["reasons"]) == (0, [f"{office.engine} version 3 is the champion now"])
    assert office.registry.aliases(office.engine) == {"champion": "3", "previous": "2"}
    assert office.word("3") == ("promoted", "ann")

    after = office.state()
    code, command = office.decide("ann", "approve", "3")
    assert (code, command.object["reasons"]) == (0, [f"{office.engine} version 3 is the champion already"])
    assert office.state()["aliases"] == after["aliases"]
    assert office.word("3") == ("promoted", "ann")

    code, command = office.run("ann", *rollback)
    assert (code, command.object["champion"]) == (0, "2")
    assert office.registry.aliases(office.engine) == {"champion": "2"}
    assert office.word("3") == ("rolled back", "ann")

    assert office.decide("ann", "reject", "1")[0] == 0
    assert office.word("1") == ("rejected", "ann")


def test_who_decides_is_whom_the_server_knows(office: Office) -> None:
    """Not who the operating system says they are; MLflow also takes names from a file."""
    office.register("1")
    office.grant()
    home = office.root.parent / "home"
    (home / ".mlflow").mkdir(parents=True)
    credentials = home / ".mlflow" / "credentials"
    credentials.write_text(
        f"[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = {PASSWORDS['ann']}\n", encoding="utf-8"
    )

    nobody = {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": "", "HOME": str(home)}
    code, command = office.decide("someone", "approve", "1", **nobody)

    assert code == 0, command.stderr
    assert office.word("1") == ("promoted", "ann")


def test_a_wrong_password_decides_nothing(office: Office) -> None:
    office.register("1")
    office.register("2")
    office.grant()
    office.registry.promote(office.engine, "1", None, None)
    office.registry.promote(office.engine, "2", None, None)
    before = office.state()
    wrong, none = {"MLFLOW_TRACKING_PASSWORD": PASSWORDS["bob"]}, {"MLFLOW_TRACKING_USERNAME": ""}

    for words in (("approve", office.engine, "1", "--reason", "x"), ("rollback", office.name, "--target", "x86")):
        for environment, told in ((wrong, "does not accept ann with this password"), (none, "asks who you are")):
            code, command = office.run("ann", *words, "--json", **environment)
            assert code == 2
            assert command.object["error"] == f"MLflow at {office.registry.tracking_uri} {told}; {VARIABLES}"
            assert command.stderr == f"slipway: {command.object['error']}\n"
    assert office.state() == before


def test_evidence_that_no_longer_holds_is_not_approved(office: Office) -> None:
    office.register("1", hardware=HARDWARE)
    office.register("2")
    office.grant()
    before = office.state()

    code, command = office.decide("ann", "approve", "1")
    assert (code, command.object["verdict"]) == (3, "FAIL")
    (reason,) = command.object["reasons"]
    assert reason.startswith("host: the engine is stale: built on cpu (x86_64), this host is ")

    data = office.root / TEST_DATA
    shutil.rmtree(data)
    x = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
    write_shards(data, {"x": x}, np.zeros(50, np.int64), shard_size=50)
    track(data)
    code, command = office.decide("ann", "approve", "2")
    assert (code, command.object["verdict"]) == (3, "FAIL")
    (reason,) = command.object["reasons"]
    assert reason.startswith(f"data: the data is now md5 {verify(data).md5}, the evidence is about ")
    assert office.state() == before
