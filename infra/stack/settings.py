"""What the recipes of all servers share: where each listens, its keys, and what the others connect to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.stack.keys import Keys
from infra.stack.layout import HOST, Layout
from infra.stack.processes import inherited
from slipway import SILENT

BUCKET = "slipway"
MLFLOW_BUCKET = "mlflow"
REGION = "us-east-1"  # SeaweedFS has none, and signatures name one
SERVICE_ACCOUNT = "slipway"
ADMINISTRATOR = "admin"


@dataclass(frozen=True)
class Settings:
    """``extra`` is added to the environment of single services, by name."""

    layout: Layout
    ports: Mapping[str, int]
    keys: Keys
    extra: Mapping[str, Mapping[str, str]]

    def environment(self, service: str, **own: str) -> dict[str, str]:
        """This process's, quiet, with what the service needs of its own."""
        return inherited() | SILENT | own | dict(self.extra.get(service, {}))

    def postgres_url(self, role: str, database: str, scheme: str = "postgresql") -> str:
        """Where a role finds a database."""
        return f"{scheme}://{role}:{self.keys[f'postgres-{role}']}@{HOST}:{self.ports['postgres']}/{database}"

    @property
    def prefect_auth_string(self) -> str:
        """What Prefect's API asks of all who use it, as NAME:PASSWORD; it knows nobody else."""
        return f"{SERVICE_ACCOUNT}:{self.keys['prefect-api']}"

    @property
    def redis_url(self) -> str:
        """Where Prefect's servers find Redis."""
        return f"redis://:{self.keys['redis']}@{HOST}:{self.ports['redis']}/0"

    def http(self, listener: str) -> str:
        """Where a listener is found by HTTP."""
        return f"http://{HOST}:{self.ports[listener]}"
