from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from slipway.errors import BadInputError
from slipway.records import Evidence
from slipway.steps.promote import promote
from slipway.steps.publish import publish_mar
from tests.fakes.evidence import DATA_MD5
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.registered import register_engine

NAME = "digits.x86"


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    """One version, the champion."""
    registry = FakeRegistry()
    register_engine(registry, tmp_path, NAME)
    promote(registry, NAME, "1", DATA_MD5)
    return registry


@pytest.fixture
def handler(tmp_path: Path) -> Path:
    """The code that a server runs the engine with."""
    path = tmp_path / "handler.py"
    path.write_text("class Handler: ...\n", encoding="utf-8")
    return path


def test_the_archive_holds_engine_evidence_handler_and_manifest(
    registry: FakeRegistry, handler: Path, tmp_path: Path
) -> None:
    archive = publish_mar(registry, NAME, "champion", handler, tmp_path / "out")

    assert archive == tmp_path / "out" / "digits.x86.mar"
    with zipfile.ZipFile(archive) as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    assert content["served/engine.onnx"] == b"engine"
    assert content["handler.py"] == handler.read_bytes()
    assert Evidence.model_validate_json(content["evidence.json"]) == registry.version(NAME, "1").evidence
    manifest = json.loads(content["MAR-INF/MANIFEST.json"])
    assert manifest["model"] == {"modelName": NAME, "modelVersion": "1.0", "handler": "handler.py"}
    assert manifest["runtime"] == "python"
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


def test_the_same_engine_gives_the_same_archive_and_replaces_an_older_one(
    registry: FakeRegistry, handler: Path, tmp_path: Path
) -> None:
    first = publish_mar(registry, NAME, "champion", handler, tmp_path / "out").read_bytes()
    (tmp_path / "out" / "digits.x86.mar").write_bytes(b"older")

    assert publish_mar(registry, NAME, "champion", handler, tmp_path / "out").read_bytes() == first


def test_an_alias_that_no_version_bears_is_told_with_those_there_are(
    registry: FakeRegistry, handler: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=r"^digits\.x86 has no previous; aliases: champion \(version 1\)$"):
        publish_mar(registry, NAME, "previous", handler, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_cannot_be_written_is_bad_input(registry: FakeRegistry, handler: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")

    with pytest.raises(BadInputError, match=r"^cannot write .*digits\.x86\.mar: .*; give --out another directory$"):
        publish_mar(registry, NAME, "champion", handler, tmp_path / "file")
