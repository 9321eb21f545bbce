"""One tiny model, released and served by ``slipway serve`` as a process, for clients that we did not write."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.serving.http.inference_json import Array
from slipway.stores.registry import CHAMPION
from slipway.wiring import workshop
from tests.e2e.project import ENGINE, target, write_params
from tests.integration.conftest import Project
from tests.integration.serving.test_serve import SERVE, address


@dataclass(frozen=True)
class Served:
    """The champion of a release, and the server that answers for it."""

    root: Path
    version: str
    host: str
    name: str = ENGINE

    @property
    def url(self) -> str:
        """Where people and clients find it."""
        return f"http://{self.host}"

    def expected(self, x: Array, folder: Path) -> Array:
        """What the registered engine file answers when nobody serves it."""
        registry = workshop(self.root).registry
        found = registry.version(self.name, self.version).evidence
        path = registry.engine_path(self.name, self.version, folder)
        with engine(found.spec.engine).load(path, RunOptions()) as session:
            return session.infer({"x": x})["logits"]


@pytest.fixture(scope="package")
def served(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that is up, and ends as it should once all have asked."""
    root = tmp_path_factory.mktemp("served") / "project"
    shutil.copytree(_made, root)
    write_params(root, variants=["fp32"], targets=target())
    project = Project(root)
    project.release()
    version = workshop(root).registry.aliases(ENGINE)[CHAMPION]
    with project.start(*SERVE) as command:
        base = address(command)
        yield Served(root, version, base.removeprefix("http://").removesuffix("/v2"))
        command.send(signal.SIGTERM)
        assert command.ended() == 0
        assert "Traceback" not in command.stderr
