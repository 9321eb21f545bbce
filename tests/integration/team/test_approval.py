"""Approval by two persons whom MLflow knows, the time for it, and the log of it all, on real servers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from slipway.config import ApprovalParams
from slipway.records import Verdict
from slipway.steps.promote import await_approval
from slipway.stores.tracking import verify
from tests.e2e.project import TEST_DATA, write_params
from tests.integration.conftest import Project
from tests.integration.guarded_server import PASSWORDS, GuardedServer, Office
from tests.integration.prefect_server import PrefectServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TWO = {"required": True, "persons": 2}
PARALLEL = 50
RUN_SECONDS = 300.0
POOL = "slipway"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    """A server of two workers that knows two approvers, a reader and the service account."""
    with GuardedServer(tmp_path_factory.mktemp("guarded"), workers=2) as server:
        server.add("ann", "bob", "carl", "slipway")
        yield server


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        server.create_pool(POOL)
        yield server


@pytest.fixture
def office(
    project: Project, guarded: GuardedServer, prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Office]:
    """A project of its own; whatever was done in it, no password was printed or logged."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["admin"])
    quiet: Mapping[str, str] = prefect.environment | {"PREFECT_LOGGING_LEVEL": "CRITICAL"}
    office = Office(project.root.parent.name.replace("_", "-"), project, guarded, quiet)
    for version in ("1", "2"):
        office.register(version)
    office.grant(ann="EDIT", carl="EDIT", bob="READ", slipway="EDIT")
    office.registry.promote(office.engine, "1", None, None)
    yield office
    for password in PASSWORDS.values():
        assert not any(password in text for text in [*office.printed, guarded.log, guarded.audit_log])


def wait_for_approval(office: Office, **approval: object) -> None:
    """Version 2 becomes challenger, as a release leaves it."""
    md5 = verify(office.root / TEST_DATA).md5
    asked = ApprovalParams.model_validate(approval)
    assert await_approval(office.registry, office.engine, "2", md5, asked).verdict is Verdict.PASS


def logged(office: Office, server: GuardedServer, since: int) -> list[tuple[str | None, str, str | None, int]]:
    """Who changed which tag or alias of the engine to what, and the answer, of the log's lines from ``since`` on."""
    told = []
    for line in server.changes[since:]:
        what = line["what"]
        if what.get("name") == office.engine:
            changed = what.get("alias") or what.get("key", "")
            told.append((line["user"], changed.removeprefix("slipway."), what.get("value"), line["status"]))
    return told


def test_two_persons_promote_and_one_does_not(office: Office, guarded: GuardedServer) -> None:
    """Ann's checkout asks for one person alone: what was recorded with the challenger counts."""
    wait_for_approval(office, **TWO)
    write_params(office.root, model=f"models:/{office.name}/1", approval={"required": True})
    since = len(guarded.changes)

    for _ in range(2):
        code, command = office.decide("ann", "approve", "2")
        assert (code, command.object["verdict"]) == (4, "INCONCLUSIVE"), command.stderr
        told = f"{office.engine} version 2: 1 of 2 approvals; another person than ann must approve"
        assert command.object["reasons"] == [told]
        assert office.registry.aliases(office.engine) == {"champion": "1", "challenger": "2"}

    code, command = office.decide("bob", "approve", "2")
    assert code == 3, command.stderr
    assert "does not let bob do this" in command.object["error"]
    code, command = office.decide("carl", "approve", "2", MLFLOW_TRACKING_PASSWORD="wrong")
    assert code == 2, command.stderr
    assert office.registry.aliases(office.engine) == {"champion": "1", "challenger": "2"}

    code, command = office.decide("carl", "approve", "2")
    assert (code, command.object["reasons"]) == (0, [f"{office.engine} version 2 is the champion now"])
    assert office.registry.aliases(office.engine) == {"champion": "2", "previous": "1"}
    assert office.word("2") == ("promoted", "ann, carl")

    lines = logged(office, guarded, since)
    assert [(user, key, status) for user, key, _, status in lines if key.startswith("approval.")] == [
        ("ann", "approval.ann", 200),
        ("ann", "approval.ann", 200),
        ("bob", "approval.bob", 403),
        ("carl", "approval.carl", 200),
    ]
    assert ("carl", "decision", "promoted", 200) in lines
    assert ("carl", "approver", "ann, carl", 200) in lines
    assert [(user, key, status) for user, key, _, status in lines if key in {"champion", "previous"}] == [
        ("carl", "previous", 200),
        ("carl", "champion", 200),
    ]
    # With EDIT an alias is not deleted: the log tells the refusal, too.
    assert ("carl", "challenger", 403) in [(user, key, status) for user, key, _, status in lines]


def test_a_rejection_starts_again_from_nothing(office: Office) -> None:
    wait_for_approval(office, **TWO)
    assert office.decide("ann", "approve", "2")[0] == 4
    assert office.decide("carl", "reject", "2")[0] == 0
    assert office.decide("carl", "approve", "2")[0] == 4
    assert office.registry.champion(office.engine) == "1"
    assert office.decide("ann", "approve", "2")[0] == 0
    assert office.registry.champion(office.engine) == "2"


def test_who_comes_too_late_is_told_since_when(office: Office) -> None:
    wait_for_approval(office, required=True, expires_hours=1 / 3600)
    before = office.state()
    time.sleep(1.5)

    code, command = office.decide("ann", "approve", "2")

    assert (code, command.object["verdict"]) == (3, "FAIL"), command.stderr
    (reason,) = command.object["reasons"]
    assert reason.startswith(f"{office.engine} version 2: it has waited for approval since ")
    assert reason.endswith("longer than the 0.000277778 hours it may; release again")
    assert office.state() == before


def test_the_deployment_decides_as_its_account_and_never_as_a_second_person(
    office: Office, guarded: GuardedServer, prefect: PrefectServer
) -> None:
    write_params(office.root, model=f"models:/{office.name}/1", targets={"x86": {"engines": ["onnxruntime"]}})
    known = {"MLFLOW_TRACKING_USERNAME": "slipway", "MLFLOW_TRACKING_PASSWORD": PASSWORDS["slipway"]}
    prefect.environment |= {"MLFLOW_TRACKING_URI": guarded.uri, **known}
    wait_for_approval(office, **TWO)
    parameters = {"name": office.engine, "version": "2", "reason": "looks fine", "person": "carl"}
    assert office.decide("ann", "approve", "2")[0] == 4

    with (
        temporary_settings({PREFECT_API_URL: prefect.environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
        prefect.worker(POOL, office.root) as worker,
    ):
        flow = client.create_flow_from_name("promote")
        made = client.create_deployment(flow, "promote", work_pool_name=POOL, entrypoint="flows.promote.promote")

        def ended(**more: str) -> tuple[str, str]:
            run = client.create_flow_run_from_deployment(made, parameters=parameters | more)
            deadline = time.monotonic() + RUN_SECONDS
            while time.monotonic() < deadline:
                state = client.read_flow_run(run.id).state
                if state is not None and state.is_final():
                    return str(state.name), str(state.message)
                time.sleep(0.5)
            pytest.fail(f"the run did not end: {worker.log}")

        verdict, told = ended(word="approve")
        assert (verdict, office.registry.champion(office.engine)) == ("FAIL", "1"), worker.log
        assert "nobody has checked that slipway (for carl, claimed) is one" in told

        verdict, told = ended(word="reject")
        assert (verdict, told) == ("PASS", f"{office.engine} version 2 is rejected: looks fine")
        assert office.word("2") == ("rejected", "slipway (for carl, claimed)")

        verdict, told = ended(version="1", word="reject")
        assert verdict == "Failed"
        assert "is the champion; use `slipway rollback`" in told


def test_nothing_is_missing_from_the_log_under_parallel_changes(office: Office, guarded: GuardedServer) -> None:
    """Two workers append to it at once; requests come in either spelling."""
    since = len(guarded.changes)

    def change(number: int) -> int:
        person = ("ann", "carl", "bob")[number % 3]
        api = ("api", "ajax-api")[number % 2]
        answer = httpx.post(
            f"{guarded.uri}/{api}/2.0/mlflow/model-versions/set-tag",
            json={"name": office.engine, "version": "2", "key": f"parallel-{number}", "value": "x" * 2_000},
            auth=(person, PASSWORDS[person]),
            timeout=120,
        )
        return answer.status_code

    with ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(change, range(PARALLEL)))

    lines = [line for line in guarded.changes[since:] if line["what"].get("name") == office.engine]
    told = {line["what"]["key"]: (line["user"], line["status"]) for line in lines}
    assert len(lines) == PARALLEL
    assert told == {f"parallel-{n}": (("ann", "carl", "bob")[n % 3], answers[n]) for n in range(PARALLEL)}
    assert {answers[n] for n in range(PARALLEL) if n % 3 != 2} == {200}
    assert {answers[n] for n in range(PARALLEL) if n % 3 == 2} == {403}
    tags = office.registry.version(office.engine, "2").tags
    assert {key for key in tags if key.startswith("parallel-")} == {f"parallel-{n}" for n in range(50) if n % 3 != 2}


def test_a_server_that_cannot_log_changes_nothing(office: Office, guarded: GuardedServer, tmp_path: Path) -> None:
    before = office.state()
    folder, moved = guarded.audit.parent, tmp_path / "moved"
    shutil.move(folder, moved)
    try:
        answer = httpx.post(
            f"{guarded.uri}/api/2.0/mlflow/registered-models/alias",
            json={"name": office.engine, "alias": "champion", "version": "2"},
            auth=("ann", PASSWORDS["ann"]),
            timeout=120,
        )
        assert answer.status_code == 503
        assert f"the audit log {guarded.audit} cannot be written" in answer.json()["message"]
        assert office.state() == before
    finally:
        shutil.move(moved, folder)
