"""Every architecture's journey, begun when a test first asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.contract.architectures.journey import Journey, begin
from tests.contract.architectures.models import make

Journeys: TypeAlias = Callable[[str], Journey]


@pytest.fixture(scope="session")
def journeys(tmp_path_factory: pytest.TempPathFactory) -> Journeys:
    """The journey of the architecture of a name."""
    architectures = make()
    return functools.cache(lambda name: begin(architectures[name], tmp_path_factory.mktemp(name)))
