"""What becomes of each thing, and what the program makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.provision.environment import adopted, stack_settings
from infra.provision.things import Change, Side, Skip, Thing, Told, exit_code, provided
from slipway.errors import BadInputError, InfrastructureError, RejectedError
from tests.e2e.project import write_params

VARIABLES = ("PREFECT_", "MLFLOW_", "AWS_", "SLIPWAY_")


def raising(error: Exception) -> Callable[[], Change]:
    def ensure() -> Change:
        raise error

    return ensure


def told(*things: Thing) -> list[Told]:
    def words(error: Exception) -> InfrastructureError | None:
        return InfrastructureError(f"down: {error}") if isinstance(error, OSError) else None

    return list(provided(Side("server", lambda: iter(things), words)))


def test_a_thing_that_is_wrong_does_not_stop_the_next() -> None:
    found = told(
        Thing("a", raising(BadInputError("wrong"))),
        Thing("b", raising(RejectedError("no"))),
        Thing("c", raising(Skip("X is not set"))),
        Thing("d", lambda: Change.CREATED),
    )
    assert [(one.name, one.change, one.why) for one in found] == [
        ("a", Change.ERROR, "wrong"),
        ("b", Change.ERROR, "no"),
        ("c", Change.SKIPPED, "X is not set"),
        ("d", Change.CREATED, ""),
    ]
    assert exit_code(found) == RejectedError.exit_code


def test_a_server_that_is_down_is_told_once() -> None:
    found = told(
        Thing("a", lambda: Change.THERE), Thing("b", raising(OSError("gone"))), Thing("c", lambda: Change.THERE)
    )
    assert [(one.name, one.change, one.why) for one in found] == [
        ("a", Change.THERE, ""),
        ("server", Change.ERROR, "down: gone"),
    ]
    assert exit_code(found) == InfrastructureError.exit_code


def test_what_is_wrong_between_two_things_is_the_servers() -> None:
    def things() -> Iterator[Thing]:
        yield Thing("a", lambda: Change.THERE)
        raise BadInputError("unknown administrator")

    found = list(provided(Side("server", things, lambda _: None)))
    assert [(one.name, one.change) for one in found] == [("a", Change.THERE), ("server", Change.ERROR)]


def test_what_nobody_foresaw_is_not_swallowed() -> None:
    with pytest.raises(KeyError):
        told(Thing("a", raising(KeyError("b"))))


def test_the_stacks_settings_are_read_as_a_shell_reads_them(tmp_path: Path) -> None:
    assert stack_settings(tmp_path) == {}
    stack = tmp_path / ".slipway" / "stack"
    stack.mkdir(parents=True)
    (stack / "environment").write_text(
        "# where\nexport PREFECT_API_URL=http://a/api\nexport B='x y=z'\n", encoding="utf-8"
    )
    (stack / "admin").write_text("export MLFLOW_ADMIN_PASSWORD='it'\"'\"'s'\n", encoding="utf-8")
    assert stack_settings(tmp_path) == {
        "PREFECT_API_URL": "http://a/api",
        "B": "x y=z",
        "MLFLOW_ADMIN_PASSWORD": "it's",
    }
    (stack / "admin").write_text("export A='open", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"cannot read .*admin: No closing quotation"):
        stack_settings(tmp_path)


def test_another_server_never_sees_the_stacks_keys() -> None:
    settings = {"MLFLOW_TRACKING_URI": "http://stack", "MLFLOW_ADMIN_PASSWORD": "secret", "SLIPWAY_BUCKET": "slipway"}
    assert adopted(settings, {}) == settings
    assert adopted(settings, {"MLFLOW_TRACKING_URI": "http://stack", "SLIPWAY_BUCKET": "mine"}) == {
        "MLFLOW_ADMIN_PASSWORD": "secret"
    }
    assert adopted(settings, {"MLFLOW_TRACKING_URI": "http://other"}) == {}
    assert adopted(settings, {"PREFECT_API_URL": "http://other"}) == {}


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.setup", *arguments],
        cwd=root,
        env={name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_not_configured_is_skipped_with_its_variable(tmp_path: Path) -> None:
    write_params(tmp_path)
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "skipped        Prefect: PREFECT_API_URL is not set: work pools, deployments, automations",
        "skipped        MLflow: MLFLOW_TRACKING_URI is not set: users, registered models, permissions, webhook",
        "skipped        S3: AWS_ENDPOINT_URL and SLIPWAY_BUCKET not set: bucket",
    ]


def test_a_directory_without_parameters_is_told_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "--json")
    assert done.returncode == BadInputError.exit_code
    error = f"{tmp_path} holds no params.yaml and no params/*.yaml; work in the project's directory"
    assert json.loads(done.stdout) == {"error": error, "exit_code": 2}
    assert done.stderr == f"slipway: {error}\n"


def test_a_wrong_option_is_told_to_a_program_too(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", "--aprover", "ann")

    assert done.returncode == BadInputError.exit_code
    told = json.loads(done.stdout)
    assert told["exit_code"] == BadInputError.exit_code
    assert "No such option: --aprover" in told["error"]
