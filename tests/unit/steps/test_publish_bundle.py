from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import slipway
from slipway.errors import BadInputError, InfrastructureError, RejectedError
from slipway.records import Artifact, Evidence
from slipway.steps.progress import LOGGER, Event
from slipway.steps.promote import promote
from slipway.steps.publish_bundle import publish_bundle
from slipway.stores.objects import ObjectStore, digest_of
from slipway.stores.registry import evidence_sha256
from slipway.stores.s3_bundles import BundleStore
from slipway.stores.s3_connection import S3Place
from tests.fakes.evidence import DATA_MD5, evidence, release
from tests.fakes.registry import FakeRegistry
from tests.fakes.s3 import FakeS3, refusing
from tests.unit.steps.registered import GATES, register_engine

NAME, TARGET = "digits", "x86"


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    """One version, the champion."""
    registry = FakeRegistry()
    register_engine(registry, tmp_path, f"{NAME}.{TARGET}")
    promote(registry, f"{NAME}.{TARGET}", "1", DATA_MD5)
    return registry


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def s3() -> FakeS3:
    return FakeS3("bucket")


@pytest.fixture
def store(s3: FakeS3, tmp_path: Path) -> BundleStore:
    return BundleStore(s3, S3Place("bucket", "engines"), tmp_path / "journal")


def test_a_bundle_holds_engine_evidence_and_a_manifest_of_both(
    registry: FakeRegistry, objects: ObjectStore, store: BundleStore, s3: FakeS3
) -> None:
    digest = hashlib.sha256(b"engine").hexdigest()

    done = publish_bundle(registry, objects, NAME, TARGET, "champion", store)

    folder = f"engines/digits/x86/{digest}/"
    assert done.uri == f"s3://bucket/{folder}"
    content = {key.removeprefix(folder): found.content for key, found in s3.buckets["bucket"].items()}
    assert content.keys() == {"engine/engine.onnx", "evidence.json", "manifest.json"}
    assert content["engine/engine.onnx"] == b"engine"
    assert Evidence.model_validate_json(content["evidence.json"]) == registry.version("digits.x86", "1").evidence
    manifest = json.loads(content["manifest.json"])
    assert manifest | {"signature": None, "files": []} == {
        "name": "digits",
        "target": "x86",
        "version": "1",
        "digest": digest,
        "engine": "onnxruntime",
        "engine_version": "1.0",
        "engine_path": "engine/engine.onnx",
        "variant": "fp32",
        "signature": None,
        "hardware_fingerprint": "f" * 64,
        "source_model": "models:/digits/1",
        "slipway_version": slipway.__version__,
        "files": [],
    }
    assert manifest["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 4]}]
    assert {one["name"]: one["sha256"] for one in manifest["files"]} == {
        name: hashlib.sha256(content[name]).hexdigest() for name in ("engine/engine.onnx", "evidence.json")
    }
    assert done.manifest.engine_files[0].sha256 == digest
    assert list(objects.root.glob("tmp/*")) == []


def test_an_engine_of_several_files_keeps_its_names_and_its_companions_come_along(
    registry: FakeRegistry, objects: ObjectStore, store: BundleStore, s3: FakeS3, tmp_path: Path
) -> None:
    engine = tmp_path / "openvino"
    engine.mkdir()
    (engine / "model.xml").write_text("<net/>")
    (engine / "model.bin").write_bytes(b"weights")
    beside = [tmp_path / name for name in ("example.npz", "inputs.json", "trace.json")]
    for file in beside:
        file.write_text(file.name)
    attached = [Artifact(digest=digest_of(file), name=file.name, size_bytes=file.stat().st_size) for file in beside]
    found = evidence(digest_of(engine), gates=GATES, attachments=tuple(attached))
    recorded = registry.record_release(
        release(found), {str(found.digest): engine}, [], {evidence_sha256(found): beside}
    )
    registry.promote("digits.x86", registry.register("digits.x86", recorded, found), None, None)

    manifest = publish_bundle(registry, objects, NAME, TARGET, "champion", store).manifest

    assert [file.name for file in manifest.files] == [
        f"{manifest.engine_path}/model.bin",
        f"{manifest.engine_path}/model.xml",
        "evidence.json",
        "example.npz",
        "inputs.json",
    ]
    assert [file.name for file in manifest.engine_files] == [file.name for file in manifest.files[:2]]
    listing = sorted(
        [file.name.removeprefix(f"{manifest.engine_path}/"), file.sha256] for file in manifest.engine_files
    )
    assert hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest() == manifest.digest
    assert s3.buckets["bucket"][f"engines/digits/x86/{found.digest}/example.npz"].content == b"example.npz"


@pytest.mark.parametrize("odd", ["-rf.onnx", ".hidden", "a b.onnx", "a\nb.onnx", "ü.onnx"])
def test_an_engine_file_whose_name_is_none_for_a_key_is_refused(
    registry: FakeRegistry, objects: ObjectStore, store: BundleStore, s3: FakeS3, tmp_path: Path, odd: str
) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / odd).write_bytes(b"x")
    found = evidence(digest_of(engine), gates=GATES)
    recorded = registry.record_release(release(found), {str(found.digest): engine}, [])
    registry.promote("digits.x86", registry.register("digits.x86", recorded, found), None, None)

    with pytest.raises(BadInputError, match="cannot be published: a name may hold letters, digits and"):
        publish_bundle(registry, objects, NAME, TARGET, "champion", store)

    assert s3.buckets["bucket"] == {}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("..", "x86", "champion"), r"^'\.\.' cannot be part of a key in S3"),
        (("digits", "x86/../arm", "champion"), r"^'x86/\.\./arm' cannot be part of a key in S3"),
        (("digits", "arm", "champion"), r"no registered model 'digits\.arm'"),
        (("digits", "x86", "previous"), r"^digits\.x86 has no previous; aliases: champion \(version 1\)$"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_written(
    registry: FakeRegistry,
    objects: ObjectStore,
    store: BundleStore,
    s3: FakeS3,
    asked: tuple[str, str, str],
    message: str,
) -> None:
    with pytest.raises(BadInputError, match=message):
        publish_bundle(registry, objects, *asked, store)
    assert s3.buckets["bucket"] == {}


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (("SignatureDoesNotMatch", 403), BadInputError, r"the key is not accepted \(SignatureDoesNotMatch\); set AWS_"),
        (("AccessDenied", 403), RejectedError, "ask for the right to read, write and list there"),
        (("InternalError", 500), InfrastructureError, "check the server's log and its disk; the same command goes on"),
        (("SlowDown", 429), InfrastructureError, "check it and try again; the same command goes on from here"),
    ],
)
def test_what_the_server_refuses_is_one_line_and_no_bundle(
    registry: FakeRegistry,
    objects: ObjectStore,
    store: BundleStore,
    s3: FakeS3,
    answer: tuple[str, int],
    kind: type[Exception],
    message: str,
) -> None:
    s3.before = refusing(*answer, "put_object")

    with pytest.raises(kind, match=f"^S3 at http://127.0.0.1:9, bucket bucket: .*{message}"):
        publish_bundle(registry, objects, NAME, TARGET, "champion", store)

    assert store.bundles(NAME, TARGET) == []


def test_a_disk_that_takes_no_copy_is_told(registry: FakeRegistry, store: BundleStore, tmp_path: Path) -> None:
    (tmp_path / "full").write_text("in the way", encoding="utf-8")

    with pytest.raises(InfrastructureError, match=r"^cannot copy digits\.x86 version 1 to .*full: .*; make room there"):
        publish_bundle(registry, ObjectStore(tmp_path / "full"), NAME, TARGET, "champion", store)


def test_progress_is_told_to_the_end(
    registry: FakeRegistry, objects: ObjectStore, store: BundleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    monkeypatch.setattr(LOGGER, "info", lambda *_, extra: events.append(extra["event"]))  # whoever else listens
    publish_bundle(registry, objects, NAME, TARGET, "champion", store)
    publish_bundle(registry, objects, NAME, TARGET, "champion", store)

    assert [one.status for one in events if one.status != "running"] == ["done", "cached"]
    assert {one.step for one in events} == {"publish"}
    assert all(one.share is None or 0 <= one.share <= 1 for one in events)
