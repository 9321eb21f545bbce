"""A team's servers for the tests of one file: on free ports, in a project of their own, and never left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from infra.stack import Stack
from infra.stack.layout import PORTS
from tests.e2e.project import write_params
from tests.ports import free_ports

# A worker asks for work every 10 s, and tells every 30 s that it is there.
QUICK_WORKER = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_HEARTBEAT_SECONDS": "2"}


class StartStack(Protocol):
    """Starts servers that end with the test's file."""

    def __call__(
        self, root: Path, *only: str, extra: Mapping[str, Mapping[str, str]] | None = None
    ) -> Stack:  # pragma: no cover - a type
        """The servers named, or all, of the project in ``root``."""
        ...


@pytest.fixture(scope="module")
def start_stack() -> Iterator[StartStack]:
    """Start servers of a project; each is asked where it listens by ``stack.environment``."""
    with contextlib.ExitStack() as running:

        def start(root: Path, *only: str, extra: Mapping[str, Mapping[str, str]] | None = None) -> Stack:
            everywhere = {"worker": QUICK_WORKER, **(extra or {})}
            stack = running.enter_context(Stack(root, free_ports(PORTS), only=only or None, extra=everywhere))
            running.callback(_kill, stack)
            return stack

        yield start


def _kill(stack: Stack) -> None:
    """End it without farewell: what it keeps is thrown away, and SeaweedFS would wait 15 s for itself."""
    for service in reversed(stack.services):
        service.kill()


@pytest.fixture(scope="module")
def team_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose parameters name a model; the model itself and its data are not made."""
    root = tmp_path_factory.mktemp("team")
    write_params(root)
    return root
