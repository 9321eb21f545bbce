"""What holds of bundles in any S3: written once, complete or not there, the same bytes for ever."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from slipway.errors import BadInputError, TamperedError
from slipway.records.bundle import MANIFEST_FILE, BundleManifest
from slipway.stores.registry import canonical_json
from slipway.stores.s3_bundles import BundleStore, StoredBundle
from slipway.stores.s3_connection import S3Place, check_bucket
from slipway.stores.s3_uploads import Uploader
from tests.contract.object_storage.conftest import SIZES
from tests.contract.object_storage.material import (
    MIB,
    CutOffError,
    Watched,
    cut_off_before,
    ignored,
    manifest_of,
    material,
)
from tests.fakes.s3 import FakeS3

SMALL, LARGE = 1000, 12 * MIB  # the large one goes in three parts


def folder_of(place: S3Place, manifest: BundleManifest) -> str:
    return f"{place.prefix}/{manifest.name}/{manifest.target}/{manifest.digest}/"


def stored(store: BundleStore) -> StoredBundle:
    """The one bundle that is there."""
    (found,) = store.bundles("digits", "x86")
    return found


def engine_key(place: S3Place, manifest: BundleManifest) -> str:
    return f"{folder_of(place, manifest)}engine/model.onnx"


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE])
def test_what_is_published_is_there_to_the_byte(
    store: BundleStore, client: Any, place: S3Place, tmp_path: Path, size_bytes: int
) -> None:
    manifest, files = material(tmp_path, size_bytes)
    told: list[int] = []

    agreed, written = store.publish(manifest, files, told.append)

    assert agreed == manifest
    assert set(written) == {*files, MANIFEST_FILE}
    assert sum(told) == manifest.size_bytes
    for name, path in files.items():
        got = client.get_object(Bucket=place.bucket, Key=folder_of(place, manifest) + name)["Body"].read()
        assert got == path.read_bytes()
    assert store.manifest("digits", "x86", manifest.digest) == manifest
    bundle = stored(store)
    assert bundle.manifest == manifest
    assert bundle.size_bytes == manifest.size_bytes + len(canonical_json(manifest).encode())
    assert bundle.age_seconds < 60
    assert store.published() == [("digits", "x86")]


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE])
def test_what_is_there_already_is_proven_and_not_written_again(
    store: BundleStore, client: Any, place: S3Place, tmp_path: Path, size_bytes: int
) -> None:
    manifest, files = material(tmp_path, size_bytes)
    store.publish(manifest, files, ignored)
    watched = Watched(client)

    agreed, written = BundleStore(watched, place, tmp_path / "other", SIZES).publish(manifest, files, ignored)

    assert (agreed, written) == (manifest, ())
    assert not {"put_object", "create_multipart_upload", "upload_part"} & watched.calls.keys()


def test_the_manifest_is_written_after_everything_else(client: Any, place: S3Place, tmp_path: Path) -> None:
    manifest, files = material(tmp_path, LARGE)
    watched = Watched(client)

    BundleStore(watched, place, tmp_path / "journal", SIZES).publish(manifest, files, ignored)

    writes = [one for one in watched.order if one.split()[0] in {"put_object", "complete_multipart_upload"}]
    assert writes[-1] == f"put_object {folder_of(place, manifest)}{MANIFEST_FILE}"
    # And what is large was read back before.
    read = watched.order.index(f"get_object {engine_key(place, manifest)}")
    assert watched.order.index(writes[-1]) > read


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE])
@pytest.mark.parametrize("complete", [True, False])
def test_other_bytes_under_a_forged_sha256_are_noticed_and_stay(
    store: BundleStore, client: Any, place: S3Place, tmp_path: Path, size_bytes: int, complete: bool
) -> None:
    manifest, files = material(tmp_path, size_bytes)
    key, forged = engine_key(place, manifest), b"x" * size_bytes
    if complete:
        store.publish(manifest, files, ignored)
    metadata = {"sha256": manifest.digest}
    client.put_object(Bucket=place.bucket, Key=key, Body=forged, Metadata=metadata)

    with pytest.raises(TamperedError, match=r"should hold .*, and holds .*; nothing was overwritten"):
        store.publish(manifest, files, ignored)

    assert client.get_object(Bucket=place.bucket, Key=key)["Body"].read() == forged
    assert (stored(store).manifest is None) is not complete


def test_an_object_of_unknown_origin_is_not_taken_for_ours(
    store: BundleStore, client: Any, place: S3Place, tmp_path: Path
) -> None:
    manifest, files = material(tmp_path)
    content = files["engine/model.onnx"].read_bytes()
    client.put_object(Bucket=place.bucket, Key=engine_key(place, manifest), Body=content)

    with pytest.raises(TamperedError, match="sha256 not told"):
        store.publish(manifest, files, ignored)


def test_a_publisher_that_died_half_way_leaves_nothing_to_be_seen_and_its_parts_are_gone_on_with(
    client: Any, place: S3Place, tmp_path: Path
) -> None:
    manifest, files = material(tmp_path, LARGE)
    cut = Watched(client, cut_off_before("upload_part", 3))
    dying = BundleStore(cut, place, tmp_path / "journal", SIZES)
    with pytest.raises(CutOffError):
        dying.publish(manifest, files, ignored)
    assert dying.bundles("digits", "x86") == []
    sent = client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)["Uploads"]
    assert [one["Key"] for one in sent] == [engine_key(place, manifest)]

    watched = Watched(client)
    later = BundleStore(watched, place, tmp_path / "journal", SIZES)
    later.publish(manifest, files, ignored)

    assert watched.calls["upload_part"] == 1
    assert watched.calls["create_multipart_upload"] == 0
    assert stored(later).manifest == manifest
    assert "Uploads" not in client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)


def test_a_part_that_is_not_the_files_is_sent_again(client: Any, place: S3Place, tmp_path: Path) -> None:
    manifest, files = material(tmp_path, LARGE)
    cut = Watched(client, cut_off_before("upload_part", 3))
    with pytest.raises(CutOffError):
        BundleStore(cut, place, tmp_path / "journal", SIZES).publish(manifest, files, ignored)
    (begun,) = client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)["Uploads"]
    other = b"y" * (5 * MIB)
    checksum = base64.b64encode(hashlib.sha256(other).digest()).decode()
    upload = {"Bucket": place.bucket, "Key": begun["Key"], "UploadId": begun["UploadId"]}
    sent = client.upload_part(**upload, PartNumber=1, Body=other, ChecksumSHA256=checksum)
    # SeaweedFS lists both parts of this number, in either order; where the last is the file's own, nothing is wrong.
    wrong = {one["PartNumber"]: one["ETag"] for one in client.list_parts(**upload)["Parts"]}[1] == sent["ETag"]
    assert wrong or not isinstance(client, FakeS3)

    watched = Watched(client)
    BundleStore(watched, place, tmp_path / "journal", SIZES).publish(manifest, files, ignored)

    assert watched.calls["upload_part"] == (2 if wrong else 1)


def test_an_upload_of_another_host_that_may_be_at_work_is_left_alone(
    client: Any, place: S3Place, tmp_path: Path
) -> None:
    manifest, files = material(tmp_path, LARGE)
    cut = Watched(client, cut_off_before("upload_part", 3))
    with pytest.raises(CutOffError):
        BundleStore(cut, place, tmp_path / "elsewhere", SIZES).publish(manifest, files, ignored)

    watched = Watched(client)
    BundleStore(watched, place, tmp_path / "here", SIZES).publish(manifest, files, ignored)

    assert watched.calls["upload_part"] == 3
    assert len(client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)["Uploads"]) == 1


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE])
def test_two_publishers_at_once_both_end_well_with_one_bundle(
    client: Any, place: S3Place, tmp_path: Path, size_bytes: int
) -> None:
    manifest, files = material(tmp_path, size_bytes)
    start, ended = threading.Barrier(2), []

    def publish(host: str) -> None:
        start.wait()
        agreed, _ = BundleStore(client, place, tmp_path / host, SIZES).publish(manifest, files, ignored)
        ended.append(agreed)

    threads = [threading.Thread(target=publish, args=(host,)) for host in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert ended == [manifest, manifest]
    store = BundleStore(client, place, tmp_path / "looking", SIZES)
    assert stored(store).manifest == manifest
    Uploader(client, place.bucket, tmp_path / "looking").prove(engine_key(place, manifest), size_bytes, manifest.digest)
    assert store.abandoned("digits", "x86", -60) == []


def test_another_version_with_the_same_engine_leaves_the_bundle_as_it_is(store: BundleStore, tmp_path: Path) -> None:
    manifest, files = material(tmp_path)
    store.publish(manifest, files, ignored)
    again = {**files, "evidence.json": tmp_path / "measured again.json"}
    again["evidence.json"].write_text("{}", encoding="utf-8")

    agreed, written = store.publish(manifest_of(again, version="2"), again, ignored)

    assert (agreed, written) == (manifest, ())
    assert store.publish(manifest_of(files, slipway_version="9.9.9"), files, ignored) == (manifest, ())


@pytest.mark.parametrize("change", [{"engine_version": "2.0"}, {"variant": "int8-static"}])
def test_a_manifest_that_tells_otherwise_of_the_same_version_is_noticed(
    store: BundleStore, tmp_path: Path, change: dict[str, str]
) -> None:
    manifest, files = material(tmp_path)
    store.publish(manifest, files, ignored)

    with pytest.raises(TamperedError, match=rf"manifest\.json tells another {next(iter(change))} than the registry"):
        store.publish(manifest_of(files, **change), files, ignored)


def test_a_deleted_bundle_loses_its_manifest_first(client: Any, place: S3Place, tmp_path: Path) -> None:
    manifest, files = material(tmp_path)
    BundleStore(client, place, tmp_path / "journal").publish(manifest, files, ignored)
    cut = BundleStore(Watched(client, cut_off_before("delete_objects", 2)), place, tmp_path / "journal")
    with pytest.raises(CutOffError):
        cut.delete(stored(cut))
    assert stored(cut).manifest is None

    store = BundleStore(client, place, tmp_path / "journal")
    store.delete(stored(store))

    assert store.bundles("digits", "x86") == []
    assert "Contents" not in client.list_objects_v2(Bucket=place.bucket, Prefix=f"{place.prefix}/")


def test_an_abandoned_upload_is_told_with_its_age_and_can_be_dropped(
    store: BundleStore, client: Any, place: S3Place, tmp_path: Path
) -> None:
    key = f"{place.prefix}/digits/x86/{'a' * 64}/engine/model.onnx"
    client.create_multipart_upload(Bucket=place.bucket, Key=key)
    time.sleep(2.1)  # times are told in whole seconds

    assert store.abandoned("digits", "x86", 60) == []
    assert store.abandoned("digits", "arm", -60) == []
    ((found, upload_id, age_seconds),) = store.abandoned("digits", "x86", 0.5)
    assert found == key
    assert 0.5 < age_seconds < 30
    store.abort(found, upload_id)
    store.abort(found, upload_id)  # somebody else was faster
    assert store.abandoned("digits", "x86", -60) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda client, asked: client.put_object(Body=b"second", **asked),
        lambda client, asked: client.complete_multipart_upload(**asked),
    ],
)
def test_the_server_itself_refuses_to_overwrite(
    client: Any, place: S3Place, write: Callable[[Any, dict[str, Any]], Any]
) -> None:
    key = f"{place.prefix}/key"
    begun = client.create_multipart_upload(Bucket=place.bucket, Key=key)["UploadId"]
    part = client.upload_part(Bucket=place.bucket, Key=key, UploadId=begun, PartNumber=1, Body=b"second")
    client.put_object(Bucket=place.bucket, Key=key, Body=b"first", IfNoneMatch="*")
    asked: dict[str, Any] = {"Bucket": place.bucket, "Key": key, "IfNoneMatch": "*"}
    if "complete" in write.__code__.co_names[0]:
        parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
        asked |= {"UploadId": begun, "MultipartUpload": {"Parts": parts}}

    with pytest.raises(ClientError, match="PreconditionFailed"):
        write(client, asked)

    assert client.get_object(Bucket=place.bucket, Key=key)["Body"].read() == b"first"
    client.abort_multipart_upload(Bucket=place.bucket, Key=key, UploadId=begun)


def test_bytes_that_are_not_of_their_checksum_are_refused(client: Any, place: S3Place) -> None:
    checksum = base64.b64encode(hashlib.sha256(b"right").digest()).decode()

    with pytest.raises(ClientError, match="BadDigest"):
        client.put_object(Bucket=place.bucket, Key=f"{place.prefix}/key", Body=b"wrong", ChecksumSHA256=checksum)


def test_a_bucket_that_is_not_there_is_not_made(client: Any, tmp_path: Path) -> None:
    manifest, files = material(tmp_path)
    store = BundleStore(client, S3Place("no-such-bucket", "engines"), tmp_path / "journal")

    with pytest.raises(BadInputError, match=r"has no bucket no-such-bucket; make it \(`python -m infra\.setup`"):
        store.publish(manifest, files, ignored)
    with pytest.raises(BadInputError, match="has no bucket no-such-bucket"):
        check_bucket(client, "no-such-bucket")


def test_nothing_published_is_an_empty_list(store: BundleStore) -> None:
    assert store.published() == []
    assert store.bundles("digits", "x86") == []
    assert store.manifest("digits", "x86", "a" * 64) is None
