"""Each S3 in turn: the one in memory, and a real server for the whole session."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.stores.s3_bundles import BundleStore
from slipway.stores.s3_connection import S3Place
from slipway.stores.s3_uploads import PartSizes
from tests.fakes.s3 import FakeS3
from tests.integration.seaweedfs import BUCKET, SeaweedFs

SIZES = PartSizes(large_bytes=11 << 20, part_bytes=5 << 20, at_once=2)  # the smallest parts that S3 takes
_numbers = itertools.count()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFs]:
    with SeaweedFs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(params=["fake", pytest.param("seaweedfs", marks=[pytest.mark.integration, pytest.mark.slow])])
def client(request: pytest.FixtureRequest) -> Any:
    """A client of a server with one bucket."""
    if request.param == "fake":
        return FakeS3(BUCKET)
    return request.getfixturevalue("seaweedfs").client()


@pytest.fixture
def place() -> S3Place:
    """A prefix that no other test uses."""
    return S3Place(BUCKET, f"engines-{next(_numbers)}")


@pytest.fixture
def store(client: Any, place: S3Place, tmp_path: Path) -> BundleStore:
    return BundleStore(client, place, tmp_path / "journal", SIZES)
