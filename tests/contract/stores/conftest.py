"""One MLflow store for the whole session: creating its database takes seconds, unique names cost nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.registry import Registry
from tests.fakes.registry import FakeRegistry

PYFUNC_CODE = Path(__file__).with_name("engine_pyfunc.py")
_numbers = itertools.count()


@pytest.fixture(scope="session")
def mlflow_registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    """The real thing, on SQLite and files, in a directory with a space in its name."""
    root = tmp_path_factory.mktemp("mlflow store")
    return MlflowRegistry(f"sqlite:///{root}/mlflow.db", root / "mlartifacts", PYFUNC_CODE)


@pytest.fixture(params=["fake", "mlflow"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """Each registry in turn."""
    if request.param == "fake":
        return FakeRegistry()
    registry: MlflowRegistry = request.getfixturevalue("mlflow_registry")
    return registry


@pytest.fixture
def name() -> str:
    """A model name that no other test uses."""
    return f"digits-{next(_numbers)}"
