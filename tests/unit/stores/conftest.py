"""One MLflow store for the tests of what only that store can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.stores.mlflow_registry import MlflowRegistry
from tests.contract.stores.conftest import PYFUNC_CODE


@pytest.fixture(scope="session")
def mlflow_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the store keeps its database and files."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def registry(mlflow_root: Path) -> MlflowRegistry:
    """A registry on SQLite and files."""
    return MlflowRegistry(f"sqlite:///{mlflow_root}/mlflow.db", mlflow_root / "mlartifacts", PYFUNC_CODE)
