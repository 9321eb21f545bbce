"""``slipway step publish``, ``link`` and ``prune`` as a person calls them, with a registry and an S3 in memory."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slipway.cli import link, prune, publish
from slipway.decisions.retention import Version
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import DIGEST_TAG
from slipway.wiring import Workshop
from tests.fakes.registry import FakeRegistry
from tests.fakes.s3 import FakeS3
from tests.unit.cli.conftest import Slipway
from tests.unit.steps.registered import register_engine

BUNDLE = ("step", "publish", "digits", "--target=x86", "--format=bundle")


@pytest.fixture
def s3(project: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """What every command finds where $SLIPWAY_BUCKET says."""
    found = FakeS3("bucket")
    shop: Any = Workshop(root=project, objects=ObjectStore(project / "objects"), registry=registry)  # type: ignore[arg-type]
    shop.state.mkdir(exist_ok=True)
    monkeypatch.setattr(registry, "tracking_uri", "memory", raising=False)
    monkeypatch.setattr(publish, "s3_client", lambda: found)
    monkeypatch.setenv("SLIPWAY_BUCKET", "bucket")
    for module in (publish, link, prune):
        monkeypatch.setattr(module, "workshop", lambda: shop)

    def versions(registry: FakeRegistry, tracking_uri: str) -> Any:
        return lambda name: [
            Version(number, one.tags[DIGEST_TAG], ("champion",) if registry.champion(name) == str(number) else (), "no")
            for number, one in enumerate(registry.models[name].versions, start=1)
        ]

    monkeypatch.setattr(prune, "RegisteredVersions", versions)
    return found


def champion(registry: FakeRegistry, folder: Path, content: str) -> str:
    engine = register_engine(registry, folder, "digits.x86", content.encode())
    registry.promote("digits.x86", engine.version, None, None)
    return engine.digest


def test_published_linked_and_pruned(slipway: Slipway, s3: FakeS3, registry: FakeRegistry, project: Path) -> None:
    digests = []
    for content in ("one", "two"):
        digests.append(champion(registry, project, content))
        s3.ahead = -timedelta(hours=2)
        assert slipway(*BUNDLE).code == 0
    s3.ahead = timedelta()

    linked = slipway("link", "digits", "--target=x86", "--expires=30m", "--json").object
    assert linked["digest"] == digests[1]
    assert [one["name"] for one in linked["links"]] == ["manifest.json", "engine/engine.onnx", "evidence.json"]
    assert linked["links"][1]["sha256"] == hashlib.sha256(b"two").hexdigest()
    assert linked["links"][1]["url"].endswith("X-Amz-Expires=1800")

    planned = slipway("prune", "digits", "--keep=1", "--json").object
    assert [(one["digest"], one["state"]) for one in planned["bundles"]] == [
        (digests[0], "goes"),
        (digests[1], "stays"),
    ]
    told = slipway("prune", "--all", "--keep=1")
    assert "1 bundle (0.0 MB) and 0 abandoned uploads would go; to delete them add --delete" in told.stdout
    assert "version 2 is champion" in told.stdout
    done = slipway("prune", "digits", "--keep=1", "--delete", "--json").object
    assert [one["state"] for one in done["bundles"]] == ["deleted", "stays"]
    gone = slipway("link", "digits", "--target=x86", f"--digest={digests[0]}")
    assert gone.code == 2
    assert f"is not published; published: {digests[1][:12]}; run `slipway step publish digits" in gone.stderr


def test_what_is_published_already_is_told(slipway: Slipway, s3: FakeS3, registry: FakeRegistry, project: Path) -> None:
    digest = champion(registry, project, "one")
    slipway(*BUNDLE)

    again = slipway(*BUNDLE)

    assert again.code == 0
    assert (
        f"s3://bucket/engines/digits/x86/{digest}/ is there already, as version 1, and every file of it is right"
        in (again.stderr)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*BUNDLE, "--out=here"), "--out is for --format mar; a bundle goes --to s3://BUCKET"),
        ((*BUNDLE[:4], "--format=mar", "--to=s3://bucket"), "--to is for --format bundle; a model archive goes to"),
        ((*BUNDLE, "--to=bucket"), "'bucket' is no place in S3; give s3://BUCKET or s3://BUCKET/PREFIX"),
        ((*BUNDLE, "--to=s3://other"), "S3 at http://127.0.0.1:9 has no bucket other; make it"),
        ((*BUNDLE, "--alias=previous"), "digits.x86 has no previous; aliases: champion (version 1)"),
        (("link", "digits", "--target=x86"), ", the champion, is not published; published: none; run `slipway step"),
        (("link", "digits", "--target=x86", "--digest=xyz"), "digest 'xyz' is not 4 to 64 lower-case hexadecimal"),
        (("prune",), "prune what? give a model's NAME, or --all; or --objects"),
        (("prune", "digits", "--all"), "prune what? give a model's NAME, or --all; or --objects"),
        (("prune", "--objects", "--all"), "--objects is about this project's own files; give it alone"),
        (
            ("prune", "digits"),
            "nothing is published in s3://bucket/engines of digits on any target; published: nothing",
        ),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    slipway: Slipway, s3: FakeS3, registry: FakeRegistry, project: Path, arguments: tuple[str, ...], message: str
) -> None:
    champion(registry, project, "one")

    ended = slipway(*arguments)

    assert ended.code == 2
    assert message in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(("expires", "code"), [("168h", 0), ("168h1s", 2), ("soon", 2)])
def test_a_link_lasts_seven_days_at_most(
    slipway: Slipway, s3: FakeS3, registry: FakeRegistry, project: Path, expires: str, code: int
) -> None:
    champion(registry, project, "one")
    slipway(*BUNDLE)

    assert slipway("link", "digits", "--target=x86", f"--expires={expires}").code == code


def test_too_long_a_time_is_told_before_anybody_is_asked(slipway: Slipway) -> None:
    ended = slipway("link", "digits", "--target=x86", "--expires=200h")

    assert ended.code == 2
    assert "links for 720000 s cannot be made; a signature lasts at most seven days" in ended.stderr


def test_unused_objects_are_counted_and_then_deleted(slipway: Slipway, s3: FakeS3, project: Path) -> None:
    folder = project / "objects" / "ab" / ("ab" * 32)
    folder.mkdir(parents=True)
    (folder / "file").write_text("old")
    os.utime(folder / "file", (1, 1))

    assert slipway("prune", "--objects").stdout.startswith("1 object (0.0 MB) in ")
    assert folder.exists()
    assert slipway("prune", "--objects", "--delete", "--json").object["count"] == 1
    assert not folder.exists()
