"""``slipway serve`` as processes: what a release promoted is served and followed, and SIGTERM loses no answer."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.records import CandidateSpec
from slipway.wiring import host_hardware, workshop
from tests.fakes.multiplier import NAME, X, answer, register
from tests.integration.conftest import Command, Project

pytestmark = pytest.mark.integration


def address(command: Command) -> str:
    """Where the server listens, which it tells once its engine answers."""
    command.wait_for(lambda: re.search(r"at http://\S+/v2\n", command.stderr) is not None)
    found = re.search(r"at (http://\S+)\n", command.stderr)
    assert found is not None
    return found[1]


def asked(place: str, request: dict[str, Any] | None = None) -> Any:
    """What the server answers to a GET, or to the request that is posted."""
    body = None if request is None else json.dumps(request).encode()
    with urllib.request.urlopen(urllib.request.Request(place, body), timeout=30) as answer:
        return json.load(answer)


def example(metadata: dict[str, Any], batch: int) -> dict[str, Any]:
    """A request of zeros for the served model."""
    inputs = []
    for tensor in metadata["inputs"]:
        shape = [batch, *tensor["shape"][1:]]
        size = 1
        for one in shape:
            size *= one
        inputs.append({**tensor, "shape": shape, "data": [0] * size})
    return {"inputs": inputs}


SERVE = ("serve", "tiny", "--target", "x86", "--port", "0")


@pytest.fixture
def registered(tmp_path: Path) -> Project:
    """A project in which versions 1 and 2 of ``tiny.x86`` are registered, and 1 is champion."""
    root = tmp_path / "registered"
    root.mkdir()
    registry = workshop(root).registry
    for factor in (2, 3):
        register(registry, tmp_path, factor, hardware=host_hardware())
    registry.promote(NAME, "1", "ada", "it was first")
    return Project(root)


X_REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.ravel().tolist()}]}


def version_of(base: str) -> str:
    """The version that answers, once its answer was found right."""
    answered = asked(f"{base}/models/{NAME}/infer", X_REQUEST)
    version = str(answered["model_version"])
    np.testing.assert_allclose(answered["outputs"][0]["data"], answer({"1": 2, "2": 3}[version]).ravel())
    return version


def index(base: str) -> list[dict[str, str]]:
    """What the server tells of its models."""
    found = asked(f"{base}/repository/index", {})
    assert isinstance(found, list)
    return found


def test_what_was_released_is_served(project: Project) -> None:
    project.release()
    with project.start(*SERVE) as command:
        model = f"{address(command)}/models/{NAME}"
        answered = asked(f"{model}/infer", example(asked(model), 3))
        assert [output["shape"][0] for output in answered["outputs"]] == [3]
        assert "no example is stored with it" not in command.stderr
        command.send(signal.SIGTERM)
        assert command.ended() == 0


def test_sigterm_and_ctrl_c_lose_no_answer_and_leave_nothing_behind(registered: Project, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with registered.start(*SERVE, "--access-log", "-", TMPDIR=str(temporary)) as command:
        base = address(command)
        model = f"{base}/models/{NAME}"
        metadata = asked(model)
        answers: list[Any] = []

        def ask() -> None:
            while True:
                try:
                    answers.append(asked(f"{model}/infer", example(metadata, 2)))
                except (urllib.error.URLError, ConnectionError) as error:
                    answers.append(error)
                    return

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        command.wait_for(lambda: len(answers) > 30)
        command.send(signal.SIGTERM)
        for asker in askers:
            asker.join()
        assert command.ended() == 0
        assert not list(temporary.iterdir())
        # Who was being answered got the answer; then nobody could connect any more, or had just not asked yet.
        assert all(isinstance(getattr(one, "reason", one), dict | ConnectionError) for one in answers), answers
        logged = [json.loads(line) for line in command.stdout.splitlines()]
    assert len(logged) == sum(isinstance(one, dict) for one in answers)
    assert {line["digest"] for line in logged} == {logged[0]["digest"]}

    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        with registered.start(*SERVE, "--host", "::1", "--access-log", "/dev/full") as command:
            base = address(command)
            model = f"{base}/models/{NAME}"
            assert base.startswith("http://[::1]:")
            assert asked(f"{model}/infer", example(asked(model), 1))["outputs"]
            command.send(signal.SIGINT)
            assert command.ended() == 0
            assert command.stderr.count("the access log cannot be written") == 1
            assert "Traceback" not in command.stderr


def test_an_alias_that_moves_swaps_the_engine_and_a_registry_that_is_gone_is_told(registered: Project) -> None:
    registry, database = workshop(registered.root).registry, registered.root / ".slipway" / "mlflow.db"
    with registered.start(*SERVE, "--poll-s", "0.1", "--json") as command:
        base = address(command)
        assert command.object["version"] == "1"
        assert command.object["address"] == base
        assert version_of(base) == "1"
        registry.promote(NAME, "2", "ada", "faster")
        command.wait_for(lambda: version_of(base) == "2")
        aside = database.with_name("aside")
        database.rename(aside)
        database.mkdir()  # or SQLite would make a new one
        command.wait_for(lambda: "the registry cannot be asked, serving goes on: " in command.stderr)
        assert version_of(base) == "2"
        assert index(base) == [{"name": NAME, "version": "2", "state": "READY", "reason": ""}]
        database.rmdir()
        aside.rename(database)
        command.wait_for(lambda: "the registry can be asked again" in command.stderr)
        registry.rollback(NAME)
        command.wait_for(lambda: version_of(base) == "1")
        command.send(signal.SIGTERM)
        assert command.ended() == 0
        assert "Traceback" not in command.stderr
        assert command.stderr.count("cannot be asked") == 1


def test_a_models_file_is_followed_and_read_again_on_sighup(registered: Project) -> None:
    registry, models = workshop(registered.root).registry, registered.root / "models.yaml"
    models.write_text("- {name: tiny, target: x86}\n")
    with registered.start("serve", "--models", "models.yaml", "--port", "0", "--poll-s", "0", "--json") as command:
        base = address(command)
        assert [model["version"] for model in command.object["models"]] == ["1"]
        registry.set_challenger(NAME, "2")
        models.write_text("- {name: tiny, target: x86, alias: challenger}\n- {name: other, target: x86}\n")
        command.send(signal.SIGHUP)
        command.wait_for(lambda: version_of(base) == "2")
        command.wait_for(lambda: len(index(base)) == 2)
        other = index(base)[1]
        assert (other["name"], other["state"]) == ("other.x86", "UNAVAILABLE")
        models.write_text("- {name: tiny, target: x86, alias: challenger}\n")
        command.send(signal.SIGHUP)
        command.wait_for(lambda: len(index(base)) == 1)
        command.send(signal.SIGINT)
        assert command.ended() == 0


def test_a_supervising_process_that_is_killed_takes_the_other_with_it_and_frees_the_port(
    registered: Project, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with registered.start(*SERVE, TMPDIR=str(temporary)) as command:
        base = address(command)
        assert version_of(base) == "1"
        assert len(command.descendants()) == 1
        command.send(signal.SIGKILL)
        assert command.ended() == -signal.SIGKILL
        assert command.left(within_seconds=60) == set()
    assert not list(temporary.iterdir())
    port = base.split(":")[2].removesuffix("/v2")
    with registered.start("serve", "tiny", "--target", "x86", "--port", port) as command:
        assert version_of(address(command)) == "1"
        command.send(signal.SIGTERM)
        assert command.ended() == 0


def test_sigterm_while_the_first_engine_is_opened_leaves_nothing_behind(registered: Project, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with registered.start(*SERVE, TMPDIR=str(temporary)) as command:
        command.wait_for(lambda: len(command.descendants()) == 1)
        command.send(signal.SIGTERM)
        code = command.ended()
        assert (code, command.left()) == (0 if "/v2" in command.stderr else 143, set())
    assert not list(temporary.iterdir())


def test_a_sighup_while_the_first_engine_is_opened_is_answered_later(registered: Project) -> None:
    registry, models = workshop(registered.root).registry, registered.root / "models.yaml"
    models.write_text("- {name: tiny, target: x86}\n")
    registry.set_challenger(NAME, "2")
    with registered.start("serve", "--models", "models.yaml", "--port", "0", "--poll-s", "0") as command:
        command.wait_for(lambda: len(command.descendants()) == 1)
        models.write_text("- {name: tiny, target: x86, alias: challenger}\n")
        command.send(signal.SIGHUP)
        base = address(command)
        command.wait_for(lambda: version_of(base) == "2")
        command.send(signal.SIGTERM)
        assert command.ended() == 0


def test_an_engine_that_cannot_be_opened_ends_the_command_in_one_line(registered: Project, tmp_path: Path) -> None:
    registry = workshop(registered.root).registry
    elsewhere = host_hardware().model_copy(update={"cpu": "another"})
    register(registry, tmp_path, 5, hardware=elsewhere)
    registry.promote(NAME, "3", None, None)
    code, command = registered.run(*SERVE)
    assert (code, command.stderr.count("\n")) == (2, 1)
    assert "is stale: built on another" in command.stderr
    mute = host_hardware()
    register(registry, tmp_path, 7, hardware=mute, spec=CandidateSpec(target="x86", variant="fp32", engine="torch"))
    registry.promote(NAME, "4", None, None)
    code, command = registered.run(*SERVE, "--json")
    assert (code, command.stderr.count("\n")) == (2, 1)
    assert command.object["exit_code"] == 2


def test_options_that_cannot_be_used_end_in_one_line_before_anything_is_served(project: Project) -> None:
    for options, reason in (
        (
            ("--models", "models.yaml"),
            "--models models.yaml tells every model with its target and alias; give it alone",
        ),
        (("--poll-s", "inf"), "--poll-s is inf; give a finite number"),
        (("--max-body-mb", "inf"), "--max-body-mb is inf; give a finite number"),
        (("--timeout-s", "inf"), "--timeout-s is inf; give a finite number"),
        (("--access-log", "missing/log"), "cannot write the access log missing/log: "),
        (("--access-log", "."), "cannot write the access log .: "),
    ):
        code, command = project.run(*SERVE, *options)
        assert (code, command.stderr.count("\n")) == (2, 1)
        assert reason in command.stderr


def test_a_port_that_is_taken_and_an_alias_that_nobody_bears_end_in_one_line(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, command = project.run("serve", "tiny", "--target", "x86", "--port", port)
    assert (code, command.stderr.count("\n")) == (2, 1)
    assert re.search(rf"cannot listen on 127\.0\.0\.1:{port}: .*; give another --host or --port", command.stderr)
    code, command = project.run("serve", "tiny", "--target", "x86", "--port", "0")
    assert (code, command.stderr.count("\n")) == (2, 1)
