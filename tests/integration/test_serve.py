"""``slipway serve`` as a process: what a release promoted is served, and SIGTERM loses no answer."""

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

import pytest

from tests.e2e.project import MODEL_URI
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


def test_what_was_released_is_served_until_it_is_told_to_end(project: Project, tmp_path: Path) -> None:
    assert project.run("release", MODEL_URI)[0] == 0
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with project.start(*SERVE, "--access-log", "-", TMPDIR=str(temporary)) as command:
        base = address(command)
        model = f"{base}/models/tiny.x86"
        metadata = asked(model)
        answer = asked(f"{model}/infer", example(metadata, 3))
        assert [output["shape"][0] for output in answer["outputs"]] == [3]

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
        # Who was being answered got the answer; then nobody could connect any more.
        assert all(isinstance(one, dict) or "refused" in str(one) or "reset" in str(one) for one in answers)
        logged = [json.loads(line) for line in command.stdout.splitlines()]
    assert len(logged) == 1 + sum(isinstance(one, dict) for one in answers)
    assert {line["digest"] for line in logged} == {logged[0]["digest"]}

    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        with project.start(*SERVE, "--host", "::1", "--access-log", "/dev/full") as command:
            base = address(command)
            model = f"{base}/models/tiny.x86"
            assert base.startswith("http://[::1]:")
            assert asked(f"{model}/infer", example(asked(model), 1))["outputs"]
            command.send(signal.SIGINT)
            assert command.ended() == 0
            assert command.stderr.count("the access log cannot be written") == 1
            assert "Traceback" not in command.stderr


def test_options_that_cannot_be_used_end_in_one_line_before_anything_is_served(project: Project) -> None:
    for options, reason in (
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
