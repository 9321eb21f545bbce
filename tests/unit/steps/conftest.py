"""What the tests of the steps share."""

from __future__ import annotations

import pytest

from tests.unit.steps.material import Material, make_material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A tiny model and its data, and what the steps make of them."""
    return make_material(tmp_path_factory.mktemp("material"))
