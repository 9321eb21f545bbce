"""What goes wrong around a release, met with the real program: each a message, an exit code, and nothing half done."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from slipway.wiring import workshop
from tests.e2e.project import ENGINE, MODEL_URI, TEST_DATA, make_project, write_params
from tests.integration.conftest import MlflowServer, Project

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def change_one_byte(file: Path) -> None:
    """As a fault of the disk does: size and time of change stay."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_changed_data_is_refused_and_the_file_named(project: Project) -> None:
    shard = sorted((project.root / TEST_DATA).iterdir())[1]
    change_one_byte(shard)

    code, command = project.run("release", MODEL_URI, "--json")

    assert (code, command.object["exit_code"]) == (2, 2)
    assert f"changed {shard.name}" in command.object["error"]
    assert "Traceback" not in command.stderr
    assert workshop(project.root).registry.champion(ENGINE) is None


def test_lost_and_damaged_objects_are_made_again(project: Project) -> None:
    write_params(project.root, variants=["fp32"], targets={"x86": {"engines": ["onnxruntime"]}})
    project.release()
    objects = project.root / ".slipway/objects"
    (engine,) = objects.glob("*/*/engine.onnx")

    change_one_byte(engine)
    code, command = project.run("release", MODEL_URI)
    assert (code, command.stderr.count("every step, because object engine.onnx should hash to")) == (0, 1)

    shutil.rmtree(objects)
    code, command = project.run("release", MODEL_URI)
    assert (code, command.stderr.count("every step, because object")) == (0, 1)
    assert len(list(objects.glob("*/*/engine.onnx"))) == 1


def test_a_rolled_back_engine_comes_back_only_by_a_persons_word(project: Project) -> None:
    registry = workshop(project.root).registry
    write_params(project.root, variants=["fp32"], targets={"x86": {"engines": ["torch"]}})
    project.release()
    write_params(project.root, variants=["fp32"], targets={"x86": {"engines": ["torch", "onnxruntime"]}})
    project.release()
    assert registry.aliases(ENGINE) == {"champion": "2", "previous": "1"}

    assert project.run("rollback", "tiny", "--target", "x86")[0] == 0
    code, command = project.run("rollback", "tiny", "--target", "x86", "--json")
    assert (code, command.object["error"]) == (
        2,
        f"{ENGINE} has no previous version to roll back to; champion is 1",
    )

    code, command = project.run("release", MODEL_URI, "--json")
    assert code == 3
    assert "this file was rolled back" in command.object["targets"]["x86"]["reasons"][-1]
    assert registry.aliases(ENGINE) == {"champion": "1"}

    assert project.run("approve", ENGINE, "2", "--reason", "it was the network")[0] == 0
    assert registry.aliases(ENGINE) == {"champion": "2", "previous": "1"}


def test_a_release_into_a_server_that_then_goes_down(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    root = tmp_path / "project"
    root.mkdir()
    make_project(root)
    project = Project(root)

    command = project.release("--json")

    registered = [one["registered"] for one in command.object["targets"]["x86"]["candidates"]]
    assert registered.count(f"models:/{ENGINE}/1") == 1
    assert workshop(root).registry.champion(ENGINE) == "1"
    assert not (root / ".slipway/mlflow.db").exists()

    server.stop()
    for words in (("release", MODEL_URI), ("approve", ENGINE, "1", "--reason", "x"), ("candidates", "tiny")):
        started = time.monotonic()
        code, command = project.run(*words, "--json")
        assert (code, command.object["exit_code"]) == (5, 5)
        assert re.match(rf"cannot reach MLflow at {server.uri}: .*; start it", command.object["error"])
        assert time.monotonic() - started < 60, "MLflow's own client asks for longer"
        assert "Traceback" not in command.stderr


@pytest.mark.parametrize("uri", ["notauri", "http://", "sqlite:////proc/no/mlflow.db"])
def test_a_store_that_cannot_be_one_is_told_at_once(uri: str, project: Project) -> None:
    started = time.monotonic()
    code, command = project.run("release", MODEL_URI, "--json", MLFLOW_TRACKING_URI=uri)

    assert code == command.object["exit_code"]
    assert code in {2, 5}
    assert uri in command.object["error"]
    assert time.monotonic() - started < 60
