"""Each database in turn, new for every test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.rollout.store.rollouts import RolloutStore
from tests.contract.rollout_state.postgres import Postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/a new directory/rollouts.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create(f"rollouts{next(_numbers)}")


@pytest.fixture
def store(url: str) -> RolloutStore:
    return RolloutStore(url)
