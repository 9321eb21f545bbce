"""Who may decide on an engine, with MLflow's own users: what is refused is told in one line and changes nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from slipway.stores.datasets import write_shards
from slipway.stores.tracking import track, verify
from tests.e2e.project import TEST_DATA
from tests.fakes.evidence import HARDWARE
from tests.integration.conftest import Project
from tests.integration.guarded_server import PASSWORDS, GuardedServer, Office
from tests.integration.prefect_server import PrefectServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

VARIABLES = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    """A server that knows ann and bob."""
    with GuardedServer(tmp_path_factory.mktemp("guarded")) as server:
        server.add("ann", "bob")
        yield server


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment of a Prefect server that is up, as quiet as the one that a command starts for itself."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        yield server.environment | {"PREFECT_LOGGING_LEVEL": "CRITICAL"}


@pytest.fixture
def office(
    request: pytest.FixtureRequest,
    project: Project,
    guarded: GuardedServer,
    prefect: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Office]:
    """A project of its own; whatever was done in it, no password was printed or written down."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["admin"])
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))[:40]
    office = Office(name, project, guarded, prefect)
    yield office
    written = [file.read_bytes() for file in project.root.rglob("*") if file.is_file()]
    for password in PASSWORDS.values():
        assert not any(password in text for text in [*office.printed, guarded.log, guarded.audit_log])
        assert not any(password.encode() in content for content in written)


def test_only_who_may_edit_decides(office: Office) -> None:
    for version in ("1", "2", "3"):
        office.register(version)
    office.grant()
    for version in ("1", "2"):
        office.registry.promote(office.engine, version, None, None)
    office.registry.set_challenger(office.engine, "3")
    before = office.state()

    rollback = ("rollback", office.name, "--target", "x86", "--json")
    refused = {
        f"approve {office.engine} 3": office.decide("bob", "approve", "3"),
        f"reject {office.engine} 3": office.decide("bob", "reject", "3"),
        f"rollback {office.engine}": office.run("bob", *rollback),
    }

    for asked, (code, command) in refused.items():
        assert code == 3, command.stderr
        assert command.object["error"] == (
            f"MLflow at {office.registry.tracking_uri} does not let bob do this ({asked}): Permission denied; ask for "
            "EDIT permission on the model or experiment, or set MLFLOW_TRACKING_USERNAME to somebody who has it"
        )
        assert command.stderr == f"slipway: {command.object['error']}\n"
    assert office.state() == before

    code, command = office.decide("ann", "approve", "3")
    assert (code, command.object["reasons"]) == (0, [f"{office.engine} version 3 is the champion now"])
    assert office.registry.aliases(office.engine) == {"champion": "3", "previous": "2"}
    assert office.word("3") == ("promoted", "ann")

    after = office.state()
    code, command = office.decide("ann", "approve", "3")
    assert (code, command.object["reasons"]) == (0, [f"{office.engine} version 3 is the champion already"])
    assert office.state()["aliases"] == after["aliases"]
    assert office.word("3") == ("promoted", "ann")

    code, command = office.run("ann", *rollback)
    assert (code, command.object["champion"]) == (0, "2")
    assert office.registry.aliases(office.engine) == {"champion": "2"}
    assert office.word("3") == ("rolled back", "ann")

    assert office.decide("ann", "reject", "1")[0] == 0
    assert office.word("1") == ("rejected", "ann")


def test_who_decides_is_whom_the_server_knows(office: Office) -> None:
    """Not who the operating system says they are; MLflow also takes names from a file."""
    office.register("1")
    office.grant()
    home = office.root.parent / "home"
    (home / ".mlflow").mkdir(parents=True)
    credentials = home / ".mlflow" / "credentials"
    credentials.write_text(
        f"[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = {PASSWORDS['ann']}\n", encoding="utf-8"
    )

    nobody = {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": "", "HOME": str(home)}
    code, command = office.decide("someone", "approve", "1", **nobody)

    assert code == 0, command.stderr
    assert office.word("1") == ("promoted", "ann")


def test_a_wrong_password_decides_nothing(office: Office) -> None:
    office.register("1")
    office.register("2")
    office.grant()
    office.registry.promote(office.engine, "1", None, None)
    office.registry.promote(office.engine, "2", None, None)
    before = office.state()
    wrong, none = {"MLFLOW_TRACKING_PASSWORD": PASSWORDS["bob"]}, {"MLFLOW_TRACKING_USERNAME": ""}

    for words in (("approve", office.engine, "1", "--reason", "x"), ("rollback", office.name, "--target", "x86")):
        for environment, told in ((wrong, "does not accept ann with this password"), (none, "asks who you are")):
            code, command = office.run("ann", *words, "--json", **environment)
            assert code == 2
            assert command.object["error"] == f"MLflow at {office.registry.tracking_uri} {told}; {VARIABLES}"
            assert command.stderr == f"slipway: {command.object['error']}\n"
    assert office.state() == before


def test_evidence_that_no_longer_holds_is_not_approved(office: Office) -> None:
    office.register("1", hardware=HARDWARE)
    office.register("2")
    office.grant()
    before = office.state()

    code, command = office.decide("ann", "approve", "1")
    assert (code, command.object["verdict"]) == (3, "FAIL")
    (reason,) = command.object["reasons"]
    assert reason.startswith("host: the engine is stale: built on cpu (x86_64), this host is ")

    data = office.root / TEST_DATA
    shutil.rmtree(data)
    x = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
    write_shards(data, {"x": x}, np.zeros(50, np.int64), shard_size=50)
    track(data)
    code, command = office.decide("ann", "approve", "2")
    assert (code, command.object["verdict"]) == (3, "FAIL")
    (reason,) = command.object["reasons"]
    assert reason.startswith(f"data: the data is now md5 {verify(data).md5}, the evidence is about ")
    assert office.state() == before
