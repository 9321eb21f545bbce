"""Data and results travel through a real S3 server to another directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.dvc.conftest import ALWAYS, ENGINES, VARIANTS, Checkout
from tests.integration.seaweedfs import BUCKET, SeaweedFs

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFs]:
    """A server with an empty bucket."""
    with SeaweedFs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


def use_s3(checkout: Checkout, s3: SeaweedFs) -> None:
    """As docs/guides/dvc.md tells it."""
    checkout.told("dvc", "remote", "add", "--local", "--default", "--force", "s3", f"s3://{BUCKET}/data")
    named = {"endpointurl": "ENDPOINT_URL", "access_key_id": "ACCESS_KEY_ID", "secret_access_key": "SECRET_ACCESS_KEY"}
    for name, variable in named.items():
        checkout.told("dvc", "remote", "modify", "--local", "s3", name, s3.environment[f"AWS_{variable}"])


def test_what_was_pushed_reproduces_elsewhere(checkout: Checkout, s3: SeaweedFs, tmp_path: Path) -> None:
    before = checkout.digests()
    use_s3(checkout, s3)
    checkout.told("dvc", "push")

    clone = Checkout(tmp_path / "elsewhere")
    checkout.told("git", "clone", "--quiet", ".", str(clone.root))
    use_s3(clone, s3)
    clone.told("dvc", "pull")

    assert clone.repro() == ALWAYS
    assert clone.digests() == before
    # And made anew from the model and the data that travelled, not only copied.
    again = [
        "export@onnx",
        *(f"quantize@{variant}-onnx" for variant in VARIANTS),
        *(f"build@x86-{engine}-{variant}" for engine in ENGINES for variant in VARIANTS),
    ]
    shutil.rmtree(clone.root / "stages" / "build")
    clone.told("dvc", "repro", "--force", "--single-item", *again)
    assert clone.digests() == before
