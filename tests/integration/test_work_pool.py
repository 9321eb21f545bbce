"""A release of two targets, one here and one on a worker of a pool: a process, a project and an object store apart."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.records import Artifact
from slipway.wiring import workshop
from tests.e2e.project import MODEL_URI, NAME, write_params
from tests.integration import conftest
from tests.integration.conftest import Command, Project
from tests.integration.prefect_server import PrefectServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RELEASE_SECONDS = 300.0  # most of it for other benchmarks on this host, which a benchmark waits for
POOL = "board"
SETTINGS = {"variants": ["fp32"], "latency": {"samples": 64}}
TARGETS = {"x86": {"engines": ["torchscript"]}, "far": {"engines": ["torchscript"], "work_pool": POOL}}
# The program, less patient: nobody waits here for a host to restart.
IMPATIENT = """#!{python}
if __name__ == "__main__":  # steps run in processes that import this file
    from slipway.cli import main
    from tasks import worker_pool

    worker_pool.PATIENCE = worker_pool.Patience(poll=0.5, sign=1, silent=20, start=120, alone=5)
    main()
"""


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as running:
        running.create_pool(POOL)
        yield running


@pytest.fixture
def here(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project in which the release is started."""
    program = tmp_path / "impatient"
    program.write_text(IMPATIENT.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(conftest, "PROGRAM", str(program))
    write_params(project.root, **SETTINGS, targets=TARGETS)
    return project


@pytest.fixture
def there(here: Project, tmp_path: Path) -> Path:
    """The same project as another host has it: data and parameters, and nothing that a release made."""
    root = tmp_path / "there"
    shutil.copytree(here.root, root, ignore=shutil.ignore_patterns(".slipway"))
    return root


def released(here: Project, server: PrefectServer) -> Command:
    """The release under way, whose cache is the test's own."""
    environment = server.environment | {"PREFECT_HOME": str(here.root.parent / "home")}
    return here.start("release", MODEL_URI, "--json", **environment)


def test_one_target_here_and_one_on_the_worker_of_its_pool(
    prefect_server: PrefectServer, here: Project, there: Path
) -> None:
    with prefect_server.worker(POOL, there) as worker, released(here, prefect_server) as command:
        assert command.ended(RELEASE_SECONDS) == 0, f"{command.stderr}\n{worker.log}"

    assert re.search(r"target far +worker +done", command.stderr)
    found = command.object["targets"]
    assert {name: target["verdict"] for name, target in found.items()} == {"x86": "PASS", "far": "PASS"}
    assert "benchmark target far" in worker.log
    shop = workshop(here.root)
    for name in ("x86", "far"):
        version = shop.registry.version(f"{NAME}.{name}", "1")
        assert version.aliases == ("champion",)
        assert version.evidence.timing is not None
        assert version.evidence.hardware.cores > 0
        assert found[name]["hardware"]["fingerprint"] == version.evidence.hardware.fingerprint
    engine = Artifact(digest=found["far"]["chosen"], name="engine.ts", size_bytes=0)
    assert workshop(there).objects.has(engine), "it was built there"
    assert shop.objects.has(engine), "and came here"
    assert not list((here.root / ".slipway" / "mlartifacts").glob("*/artifacts/objects")), "what was shared is gone"


def test_a_worker_killed_in_mid_build_is_replaced_by_a_new_one(
    prefect_server: PrefectServer, here: Project, there: Path
) -> None:
    with released(here, prefect_server) as command:
        with prefect_server.worker(POOL, there) as doomed:
            doomed.wait_for(lambda: "Task run 'build fp32/torchscript' - Running hook" in doomed.log)
            doomed.kill()
        with prefect_server.worker(POOL, there) as fresh:
            assert command.ended(RELEASE_SECONDS) == 0, f"{command.stderr}\n{fresh.log}"

    assert re.search(r"target far +worker +again .*no sign of life for 20 s, so its worker was killed", command.stderr)
    assert {name: target["verdict"] for name, target in command.object["targets"].items()} == {
        "x86": "PASS",
        "far": "PASS",
    }


def test_a_worker_killed_for_good_costs_its_target_alone(
    prefect_server: PrefectServer, here: Project, there: Path
) -> None:
    with (
        prefect_server.worker(POOL, there) as doomed,
        released(here, prefect_server) as command,
    ):
        doomed.wait_for(lambda: "Task run 'build fp32/torchscript' - Running hook" in doomed.log)
        doomed.kill()
        assert command.ended(RELEASE_SECONDS) == 5

    found = command.object["targets"]
    assert (found["x86"]["verdict"], found["far"]["verdict"]) == ("PASS", "ERROR")
    assert re.match(r"no worker of pool 'board' came within 5 s; on its hardware", found["far"]["reasons"][0])


def test_without_a_worker_a_target_is_skipped_and_the_other_goes_on(
    prefect_server: PrefectServer, here: Project
) -> None:
    prefect_server.create_pool("nobody")
    write_params(here.root, **SETTINGS, targets=TARGETS | {"far": TARGETS["far"] | {"work_pool": "nobody"}})

    with released(here, prefect_server) as command:
        assert command.ended(RELEASE_SECONDS) == 3, command.stderr
    found = command.object["targets"]
    assert (found["x86"]["verdict"], found["far"]["verdict"]) == ("PASS", "SKIPPED")
    assert found["far"]["reasons"] == [
        "work pool 'nobody' has no worker online: on its hardware, in a checkout of this project, run "
        "`prefect worker start --pool nobody --limit 1` with the same PREFECT_API_URL"
    ]
    assert [candidate["verdict"] for candidate in found["far"]["candidates"]] == ["SKIPPED"]
