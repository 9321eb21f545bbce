"""Tiny models and the engine files built from them, made once per test run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from slipway.engines import check_settings
from slipway.errors import UnsupportedError
from tests.contract.engines.cases import case, options_of, runtime_of
from tests.contract.engines.tiny import TinyModel, residual, transformer, two_towers

Build: TypeAlias = Callable[[str, TinyModel, str], Path]


@pytest.fixture(autouse=True)
def _only_where_it_runs(request: pytest.FixtureRequest) -> None:
    """Skip what needs a GPU, or a package for it, that is not here; in CI the first is the only reason to."""
    if request.node.get_closest_marker("gpu"):
        called = request.node.callspec.params
        for one in (case(called[key]) for key in ("name", "other") if key in called):
            try:
                check_settings(one.engine, one.settings)
            except UnsupportedError as error:
                pytest.skip(str(error))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyModel]:
    """The tiny models by name."""
    folder = tmp_path_factory.mktemp("models")
    return {model.name: model for model in (residual(folder), two_towers(folder), transformer(folder))}


@pytest.fixture(params=["residual", "two-towers"])
def model(request: pytest.FixtureRequest, models: dict[str, TinyModel]) -> TinyModel:
    """Each tiny model in turn that has all variants."""
    return models[request.param]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Engine file of a model's variant, built once."""
    folder = tmp_path_factory.mktemp("engines")

    def built(name: str, model: TinyModel, variant: str) -> Path:
        runtime = runtime_of(name)
        out = folder / f"{name}-{model.name}-{variant}{runtime.suffix}"
        if not out.exists():
            source = model.files[runtime.form, variant]
            runtime.build(source, out, options_of(name, variant, model.signature, 1, 8))
        return out

    return built
