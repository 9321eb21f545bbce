"""Engines published by real processes into a real S3 server, which fails, or whose publishers do."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.decisions import retention
from slipway.steps.promote import promote
from slipway.steps.prune import RegisteredVersions, carry_out, plans
from slipway.stores.registry import RegisteredEngine
from slipway.stores.s3_bundles import BundleStore
from slipway.stores.s3_connection import S3Place
from slipway.wiring import workshop
from tests.fakes.evidence import DATA_MD5
from tests.integration.conftest import Command, Project
from tests.integration.seaweedfs import BUCKET, SeaweedFs, fetched
from tests.unit.steps.registered import register_engine

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL_BYTES, LARGE_BYTES = 100_000, 14 * (16 << 20) + 1  # the large one goes in 15 parts
DEADLINE_SECONDS = 120.0
BAD_INPUT, ERROR = 2, 5


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFs]:
    with SeaweedFs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


class Publisher:
    """A project whose registry holds engines of the model ``name``, and its commands on them."""

    def __init__(self, root: Path, s3: SeaweedFs, name: str) -> None:
        self.project, self.name, self._s3 = Project(root), name, s3
        self.client = s3.client()

    def register(self, size_bytes: int = SMALL_BYTES, seed: int = 0) -> RegisteredEngine:
        """One more version, the champion."""
        shop, registered = workshop(self.project.root), f"{self.name}.x86"
        scratch = self.project.root / "scratch"
        scratch.mkdir(exist_ok=True)
        content = np.random.default_rng(seed).bytes(size_bytes)
        engine = register_engine(shop.registry, scratch, registered, content)
        promote(shop.registry, registered, engine.version, DATA_MD5)
        return engine

    def start(self, *arguments: str, **environment: str) -> Command:
        return self.project.start(*arguments, **{**self._s3.environment, "SLIPWAY_BUCKET": BUCKET, **environment})

    def publish(self, *options: str, **environment: str) -> Command:
        return self.start("step", "publish", self.name, "--target=x86", "--format=bundle", *options, **environment)

    def told(self, *arguments: str) -> dict[str, Any]:
        """What a command that has to succeed prints as JSON."""
        with self.start(*arguments, "--json") as command:
            assert command.ended() == 0, command.stderr
            return command.object

    def uploads(self) -> list[tuple[str, int]]:
        """Id and number of parts of each upload that was not ended."""
        found = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"engines/{self.name}/").get("Uploads", ())
        return [
            (
                one["UploadId"],
                len(self.client.list_parts(Bucket=BUCKET, Key=one["Key"], UploadId=one["UploadId"]).get("Parts", ())),
            )
            for one in found
        ]

    def visible(self) -> list[str]:
        """What can be seen of the model."""
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"engines/{self.name}/").get("Contents", ())
        return [one["Key"] for one in found]

    def in_the_middle(self, publishing: Command) -> str:
        """Wait until some parts are there; the id of their upload."""
        seen: list[tuple[str, int]] = []

        def some() -> bool:
            seen[:] = self.uploads()
            return bool(seen) and seen[0][1] >= 2

        publishing.wait_for(some)
        return seen[0][0]

    def fetched(self, manifest: dict[str, Any]) -> dict[str, bytes]:
        """The bytes in S3 by the names in the manifest."""
        folder = f"engines/{self.name}/x86/{manifest['digest']}/"
        return {
            file["name"]: self.client.get_object(Bucket=BUCKET, Key=folder + file["name"])["Body"].read()
            for file in manifest["files"]
        }


@pytest.fixture
def publisher(tmp_path: Path, s3: SeaweedFs, request: pytest.FixtureRequest) -> Publisher:
    root = tmp_path / "project"
    root.mkdir()
    return Publisher(root, s3, request.node.name.replace("_", "-")[5:40].strip("-"))


def assert_whole(publisher: Publisher, engine: RegisteredEngine, manifest: dict[str, Any]) -> None:
    """The bundle is complete, every file of it to the byte, and no upload is left over."""
    assert manifest["digest"] == engine.digest
    content = publisher.fetched(manifest)
    assert hashlib.sha256(content["engine/engine.onnx"]).hexdigest() == engine.digest
    for file in manifest["files"]:
        assert hashlib.sha256(content[file["name"]]).hexdigest() == file["sha256"]
    assert json.loads(content["evidence.json"])["digest"] == engine.digest
    assert f"engines/{publisher.name}/x86/{engine.digest}/manifest.json" in publisher.visible()
    assert publisher.uploads() == []


def test_published_twice_it_is_written_once(publisher: Publisher) -> None:
    engine = publisher.register()

    arguments = ("step", "publish", publisher.name, "--target=x86", "--format=bundle")
    first, second = publisher.told(*arguments), publisher.told(*arguments)

    assert set(first["written"]) == {"engine/engine.onnx", "evidence.json", "manifest.json"}
    assert second["written"] == []
    assert first["uri"] == f"s3://{BUCKET}/engines/{publisher.name}/x86/{engine.digest}/"
    assert_whole(publisher, engine, first["manifest"])


def test_a_publisher_killed_half_way_is_gone_on_with(publisher: Publisher) -> None:
    engine = publisher.register(LARGE_BYTES)
    with publisher.publish() as publishing:
        upload_id = publisher.in_the_middle(publishing)
        publishing.send(signal.SIGKILL)
        publishing.ended()
    assert publisher.visible() == []
    ((left, parts),) = publisher.uploads()
    assert left == upload_id
    assert parts >= 2

    done = publisher.told("step", "publish", publisher.name, "--target=x86", "--format=bundle")

    # A publisher that had begun anew would have left the first upload behind.
    assert_whole(publisher, engine, done["manifest"])


def test_a_server_killed_half_way_is_one_clear_line_and_after_its_restart_nothing_is_lost(
    publisher: Publisher, s3: SeaweedFs
) -> None:
    engine = publisher.register(LARGE_BYTES)
    with publisher.publish() as publishing:
        publisher.in_the_middle(publishing)
        s3.kill()
        assert publishing.ended() == ERROR
        (line,) = [line for line in publishing.stderr.splitlines() if line.startswith("slipway:")]
    assert line.startswith(f"slipway: S3 at {s3.endpoint}, bucket {BUCKET}: ")
    assert "check that the server is up and AWS_ENDPOINT_URL is right; the same command goes on from here" in line
    assert "Traceback" not in publishing.stderr
    s3.start()
    assert publisher.visible() == []

    done = publisher.told("step", "publish", publisher.name, "--target=x86", "--format=bundle")

    assert_whole(publisher, engine, done["manifest"])


@pytest.mark.parametrize("hosts", [1, 2])
def test_publishers_at_once_end_well_with_one_bundle(publisher: Publisher, s3: SeaweedFs, hosts: int) -> None:
    engine = publisher.register(LARGE_BYTES)
    others = [publisher] * 2
    if hosts == 2:  # the journal, which processes of one host share, is another
        root = publisher.project.root.with_name("copy")
        shutil.copytree(publisher.project.root, root)
        others = [publisher, Publisher(root, s3, publisher.name)]
        # A copy of the registry: the files that it names lie where they lay.

    with ExitStack() as stack:
        commands = [stack.enter_context(one.publish("--json")) for one in others]
        codes = [command.ended() for command in commands]
        told = [command.object for command in commands if codes == [0, 0]]

    assert codes == [0, 0], [command.stderr for command in commands]
    assert told[0]["manifest"] == told[1]["manifest"]
    assert_whole(publisher, engine, told[0]["manifest"])


def test_other_bytes_in_the_engines_place_are_noticed(publisher: Publisher) -> None:
    engine = publisher.register()
    publisher.told("step", "publish", publisher.name, "--target=x86", "--format=bundle")
    key = f"engines/{publisher.name}/x86/{engine.digest}/engine/engine.onnx"
    forged = {"Body": b"x" * SMALL_BYTES, "Metadata": {"sha256": engine.digest}}
    publisher.client.put_object(Bucket=BUCKET, Key=key, **forged)

    with publisher.publish() as publishing:
        assert publishing.ended() == BAD_INPUT

    assert f"s3://{BUCKET}/{key} should hold sha256 {engine.digest}, and holds bytes whose sha256 is" in (
        publishing.stderr
    )


def test_a_device_fetches_and_checks_it_by_links_until_they_expire(publisher: Publisher, tmp_path: Path) -> None:
    engine = publisher.register()
    publisher.told("step", "publish", publisher.name, "--target=x86", "--format=bundle")

    links = publisher.told("link", publisher.name, "--target=x86")["links"]
    assert [one["name"] for one in links] == ["manifest.json", "engine/engine.onnx", "evidence.json"]
    for one in links:
        status, content = fetched(one["url"])
        assert (status, hashlib.sha256(content).hexdigest()) == (200, one["sha256"])

    with publisher.start("link", publisher.name, "--target=x86", f"--digest={engine.digest[:12]}") as command:
        assert command.ended() == 0, command.stderr
        lines = command.stdout.splitlines()
    script = lines[next(number for number, line in enumerate(lines) if line.startswith("curl ")) :]
    device = tmp_path / "device"
    device.mkdir()
    checked = subprocess.run(
        ["sh", "-e", "-c", "\n".join(script)], cwd=device, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "engine/engine.onnx: OK" in checked.stdout
    assert hashlib.sha256((device / "engine/engine.onnx").read_bytes()).hexdigest() == engine.digest

    short = publisher.told("link", publisher.name, "--target=x86", "--expires=1s")["links"][1]["url"]
    time.sleep(2.5)
    assert fetched(short)[0] == 403
    assert fetched(links[1]["url"].replace(engine.digest, "0" * 64))[0] == 403  # signed for that one file


def test_what_is_wrong_with_the_place_is_told_in_one_line(publisher: Publisher, s3: SeaweedFs) -> None:
    publisher.register()
    for change, code, message in (
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BAD_INPUT, "the key is not accepted (SignatureDoesNotMatch); set AWS_"),
        ({"AWS_ACCESS_KEY_ID": "who"}, BAD_INPUT, "the key is not accepted (InvalidAccessKeyId); set AWS_ACCESS"),
        ({"SLIPWAY_BUCKET": "no-such-bucket"}, BAD_INPUT, f"S3 at {s3.endpoint} has no bucket no-such-bucket; make it"),
        ({"SLIPWAY_BUCKET": ""}, BAD_INPUT, "no bucket is given; give --to s3://BUCKET, or set SLIPWAY_BUCKET"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, ERROR, "S3 at http://127.0.0.1:9, bucket slipway: Could not"),
    ):
        with publisher.publish(**change) as publishing:
            assert publishing.ended() == code
        assert message in publishing.stderr
        assert publishing.stderr.count("\n") == 1
    assert publisher.visible() == []
    assert "no-such-bucket" not in {one["Name"] for one in publisher.client.list_buckets()["Buckets"]}


def test_pruned_is_what_neither_serves_nor_is_new(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []
    for seed in range(4):
        engines.append(publisher.register(seed=seed))
        publisher.told("step", "publish", publisher.name, "--target=x86", "--format=bundle")
    command = ("prune", publisher.name, "--keep=1", "--delete")
    young = publisher.told(*command)
    assert {one["state"] for one in young["bundles"]} == {"stays"}

    monkeypatch.setattr(retention, "YOUNG_SECONDS", -60.0)
    shop = workshop(publisher.project.root)
    store = BundleStore(publisher.client, S3Place(BUCKET, "engines"), tmp_path / "journal")
    versions = RegisteredVersions(shop.registry, shop.registry.tracking_uri)
    (plan,) = plans(store, versions, publisher.name, None, keep=1)
    deleted = carry_out(plan, store, versions, keep=1)

    # The third is previous, the fourth champion and newest.
    assert {one.digest for one in deleted} == {engines[0].digest, engines[1].digest}
    assert {key.split("/")[3] for key in publisher.visible()} == {engines[2].digest, engines[3].digest}
    with publisher.start("link", publisher.name, "--target=x86", f"--digest={engines[0].digest}") as link:
        assert link.ended() == BAD_INPUT
    assert "is not published; published: " in link.stderr
