"""What the contract suite cannot bring about with a real server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ConnectionClosedError

from slipway.errors import InfrastructureError
from slipway.stores.s3_bundles import BundleStore
from slipway.stores.s3_connection import S3Place
from slipway.stores.s3_uploads import QUIET_SECONDS
from tests.contract.object_storage.conftest import SIZES
from tests.contract.object_storage.material import MIB, CutOffError, Watched, cut_off_before, ignored, material
from tests.fakes.s3 import FakeS3

PLACE = S3Place("bucket", "engines")
LARGE = 12 * MIB


@pytest.fixture
def s3() -> FakeS3:
    return FakeS3("bucket")


@pytest.mark.parametrize(("silent_s", "sent"), [(QUIET_SECONDS + 60, 1), (QUIET_SECONDS - 60, 3)])
def test_another_hosts_upload_is_gone_on_with_once_it_is_silent(
    s3: FakeS3, tmp_path: Path, silent_s: float, sent: int
) -> None:
    manifest, files = material(tmp_path, LARGE)
    s3.ahead = -timedelta(seconds=silent_s)
    cut = Watched(s3, cut_off_before("upload_part", 3))
    with pytest.raises(CutOffError):
        BundleStore(cut, PLACE, tmp_path / "elsewhere", SIZES).publish(manifest, files, ignored)
    s3.ahead = timedelta()

    watched = Watched(s3)
    BundleStore(watched, PLACE, tmp_path / "here", SIZES).publish(manifest, files, ignored)

    assert watched.calls["upload_part"] == sent


def test_an_upload_that_somebody_dropped_is_begun_anew(s3: FakeS3, tmp_path: Path) -> None:
    manifest, files = material(tmp_path, LARGE)

    def drop(operation: str, number: int) -> None:
        if (operation, number) == ("upload_part", 2):
            s3.uploads.clear()

    watched = Watched(s3, drop)
    store = BundleStore(watched, PLACE, tmp_path / "journal", SIZES)
    store.publish(manifest, files, ignored)

    assert watched.calls["create_multipart_upload"] == 2
    assert store.bundles("digits", "x86")[0].manifest == manifest


def test_an_object_that_another_publisher_finished_first_is_proven_and_ours_dropped(s3: FakeS3, tmp_path: Path) -> None:
    manifest, files = material(tmp_path, LARGE)
    other = BundleStore(s3, PLACE, tmp_path / "elsewhere", SIZES)

    def overtake(operation: str, number: int) -> None:
        if (operation, number) == ("complete_multipart_upload", 1):
            other.publish(manifest, files, ignored)

    store = BundleStore(Watched(s3, overtake), PLACE, tmp_path / "here", SIZES)
    agreed, written = store.publish(manifest, files, ignored)

    assert (agreed, written) == (manifest, ())
    assert s3.uploads == {}


def test_a_read_that_breaks_off_is_begun_again_and_given_up_in_the_end(s3: FakeS3, tmp_path: Path) -> None:
    manifest, files = material(tmp_path, LARGE)
    broken = iter(range(100))

    def breaks(operation: str, times: int = 2) -> None:
        if operation == "get_object" and s3.called[-2] == "head_object" and next(broken) < times:
            raise ConnectionClosedError(endpoint_url="http://127.0.0.1:9")

    s3.before = breaks
    store = BundleStore(s3, PLACE, tmp_path / "journal", SIZES)
    store.publish(manifest, files, ignored)
    assert store.bundles("digits", "x86")[0].manifest == manifest

    def always(operation: str) -> None:
        if operation == "get_object":
            raise ConnectionClosedError(endpoint_url="http://127.0.0.1:9")

    s3.before = always
    with pytest.raises(
        InfrastructureError, match=r"^S3 at http://127\.0\.0\.1:9, bucket bucket: Connection was closed"
    ):
        store.publish(manifest, files, ignored)


def test_a_manifest_that_cannot_be_read_is_told(s3: FakeS3, tmp_path: Path) -> None:
    manifest, files = material(tmp_path)
    store = BundleStore(s3, PLACE, tmp_path / "journal", SIZES)
    store.publish(manifest, files, ignored)
    key = f"engines/digits/x86/{manifest.digest}/manifest.json"
    there = s3.buckets["bucket"][key]
    for content in (b"{}", there.content.replace(b'"engine/model.onnx"', b'"../../model.onnx"')):
        s3.buckets["bucket"][key] = type(there)(content, {}, None, there.modified)

        with pytest.raises(InfrastructureError, match=r"manifest\.json cannot be read by Slipway"):
            store.bundles("digits", "x86")
