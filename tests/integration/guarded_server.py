"""An MLflow server that knows its users, and a project whose engines are registered there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.tracking import verify
from slipway.wiring import host_hardware, workshop
from tests.e2e.project import TEST_DATA, write_params
from tests.integration.conftest import Command, MlflowServer, Project
from tests.unit.steps.registered import register_engine

PASSWORDS = {"admin": "admin/has:a-long@one", "ann": "ann/has:a-long@one", "bob": "bob/has:a-long@one"}
PASSWORDS |= {name: f"{name}/has:a-long@one" for name in ("carl", "slipway")}
CONFIG = """[mlflow]
default_permission = READ
database_uri = sqlite:///{root}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 3600
"""


class GuardedServer(MlflowServer):
    """An MLflow server that asks everybody who they are, and logs what they change."""

    def __init__(self, root: Path, workers: int = 1) -> None:
        self.audit = root / "audit" / "changes.jsonl"
        self.audit.parent.mkdir()
        config = root / "users.ini"
        config.write_text(CONFIG.format(root=root), encoding="utf-8")
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "SLIPWAY_AUDIT_LOG": str(self.audit),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "known to this server alone",
        }
        super().__init__(root, "--app-name=slipway-auth", workers=workers, **environment)

    @property
    def audit_log(self) -> str:
        """What it logged so far."""
        return self.audit.read_text(encoding="utf-8")

    @property
    def changes(self) -> list[dict[str, Any]]:
        """The lines of that."""
        return [json.loads(line) for line in self.audit_log.splitlines()]

    def add(self, *people: str) -> None:
        """Let it know these people."""
        for person in people:
            self.post("2.0/mlflow/users/create", username=person, password=PASSWORDS[person])

    def post(self, path: str, **fields: str) -> None:
        """Ask something as its administrator."""
        httpx.post(
            f"{self.uri}/api/{path}", json=fields, auth=("admin", PASSWORDS["admin"]), timeout=120
        ).raise_for_status()


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

    def grant(self, **permissions: str) -> None:
        """Let ann edit the registered engine, and bob read it; or these people what is given."""
        for person, permission in (permissions or {"ann": "EDIT", "bob": "READ"}).items():
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
