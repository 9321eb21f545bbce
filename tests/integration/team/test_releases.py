"""Releases that workers of a Prefect server run: one at a time per model, ended visibly, asked for where missing."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import torch
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed

from flows.reconcile import reconcile
from slipway.wiring import workshop
from tasks.release_runs import DEPLOYMENT, requests
from tests.e2e.project import MODEL_URI, NAME, PARAMS, SIGNATURE, write_params
from tests.integration.conftest import Project
from tests.integration.prefect_server import PrefectServer, Worker

pytestmark = [pytest.mark.integration, pytest.mark.slow]

POOL, OTHER = "slipway", "other"
QUICK = {
    "variants": ["fp32"],
    "latency": {"samples": 64, "budget_s": 5},
    "targets": {"x86": {"engines": ["onnxruntime"]}},
}
RUN_SECONDS = 600.0  # most of it for other benchmarks on this host, which a benchmark waits for
ENTRYPOINTS = {DEPLOYMENT: "flows.release.release_version", "reconcile": "flows.reconcile.reconcile"}
FLOWS = {DEPLOYMENT: "release-version", "reconcile": "reconcile"}


class Team:
    """A Prefect server with this project's deployments, and a client of it."""

    def __init__(self, server: PrefectServer, client: SyncPrefectClient, project: Path) -> None:
        self.server, self.client, self.project = server, client, project
        self._deployments = {
            name: client.create_deployment(
                client.create_flow_from_name(FLOWS[name]), name, work_pool_name=POOL, entrypoint=entrypoint
            )
            for name, entrypoint in ENTRYPOINTS.items()
        }

    def worker(self) -> Worker:
        return self.server.worker(POOL, self.project)

    def start(self, deployment: str, **parameters: Any) -> UUID:
        run = self.client.create_flow_run_from_deployment(self._deployments[deployment], parameters=parameters)
        return run.id

    def run(self, run_id: UUID) -> FlowRun:
        return self.client.read_flow_run(run_id)

    def ended(self, *run_ids: UUID) -> list[FlowRun]:
        """The runs, once they have come to an end."""
        wait_for(lambda: all((state := self.run(one).state) and state.is_final() for one in run_ids), RUN_SECONDS)
        return [self.run(one) for one in run_ids]

    def log(self, run_id: UUID) -> str:
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        return "\n".join(line.message for line in self.client.read_logs(wanted))

    def artifacts(self, run_id: UUID) -> dict[str, Any]:
        found = self.client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
        return {str(one.key): one.data for one in found}

    def work(self, run_id: UUID) -> tuple[datetime, datetime]:
        """From the start of the first task of a run to the end of its last."""
        tasks = self.client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        assert tasks
        starts, ends = [one.start_time for one in tasks], [one.end_time for one in tasks]
        return min(one for one in starts if one), max(one for one in ends if one)


class Benchmarks:
    """Looks from outside at which flow runs have processes that measure, and when."""

    def __init__(self) -> None:
        self.seen: dict[int, list[datetime]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Benchmarks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        here = psutil.Process()
        while not self._ended.wait(0.1):
            for process in here.children(recursive=True):
                try:
                    command = process.cmdline()
                    if "slipway.steps.timed_engine" not in " ".join(command):
                        continue
                    above = [one.pid for one in process.parents() if "prefect.engine" in one.cmdline()]
                except psutil.Error:
                    continue
                if above:
                    self.seen.setdefault(above[0], []).append(datetime.now(UTC))

    @property
    def spans(self) -> list[tuple[datetime, datetime]]:
        return sorted((times[0], times[-1]) for times in self.seen.values())


def wait_for(happened: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.5)


def overlap(one: tuple[datetime, datetime], other: tuple[datetime, datetime]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as running:
        running.create_pool(POOL)
        yield running


@pytest.fixture
def team(prefect_server: PrefectServer, project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    write_params(project.root, **QUICK)
    for name, value in prefect_server.environment.items():
        monkeypatch.setenv(name, value)
    with (
        temporary_settings({PREFECT_API_URL: prefect_server.environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        yield Team(prefect_server, client, project.root)


def register(root: Path, name: str, seed: int) -> str:
    """Register a further model of the same signature; its version."""
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 5)).eval()
    example = {"x": torch.randn(2, 64).numpy()}
    return workshop(root).registry.log_model(module, SIGNATURE, example, name).version


def test_releases_of_one_model_take_turns_and_those_of_two_models_run_beside_each_other(team: Team) -> None:
    register(team.project, OTHER, 1)
    (team.project / "params").mkdir()
    described = PARAMS | QUICK | {"model": f"models:/{OTHER}/1"}
    (team.project / "params" / "other.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")

    with ExitStack() as running, Benchmarks() as benchmarks:
        for _ in range(3):
            running.enter_context(team.worker())
        same = [team.start(DEPLOYMENT, model=MODEL_URI) for _ in range(2)]
        beside = team.start(DEPLOYMENT, params="params/other.yaml")
        ended = team.ended(*same, beside)

    assert [(run.state_type, run.state_name) for run in ended] == [("COMPLETED", "PASS")] * 3, [r.state for r in ended]
    first, second = sorted((team.work(run_id), run_id) for run_id in same)
    assert not overlap(first[0], second[0])
    turn = "for its turn among the releases of tiny: the slot 'release:tiny' is taken"
    assert f"release: start waiting ({turn})" in team.log(second[1])
    assert "is taken" not in team.log(beside)
    assert any(overlap(team.work(beside), one) for one, _ in (first, second))
    spans = benchmarks.spans
    assert len(spans) >= 2
    assert not any(overlap(one, other) for one, other in itertools.pairwise(spans))


def test_a_run_that_was_killed_goes_on_from_its_steps_and_a_gates_no_is_a_finding(team: Team) -> None:
    strict = {"x86": {"engines": ["onnxruntime"], "slo": {"size_mb": 0.0001}}}
    write_params(team.project, **QUICK | {"targets": strict})
    killed = team.start(DEPLOYMENT, model=MODEL_URI)
    with team.worker() as worker:
        worker.wait_for(lambda: "Task run 'build fp32/onnxruntime' - Finished in state Completed" in worker.log)
        worker.kill()
    # What `prefect global-concurrency-limit update` does for those who do not wait until the lease has run out.
    team.client.update_global_concurrency_limit(f"release:{NAME}", GlobalConcurrencyLimitUpdate(active_slots=0))
    with team.worker():
        (run,) = team.ended(team.start(DEPLOYMENT, model=MODEL_URI, reason="once more"))

    state, log, found = run.state, team.log(run.id), team.artifacts(run.id)
    assert (killed_state := team.run(killed).state) is not None
    assert killed_state.is_running(), "of which nobody tells Prefect"
    team.client.set_flow_run_state(killed, Crashed(), force=True)  # as the automation on missing heartbeats does
    assert state is not None
    assert (state.is_completed(), state.name) == (True, "FAIL")
    assert "size" in str(state.message)
    assert run.name == f"release {MODEL_URI}"
    assert "asked for because: once more" in log
    for step in ("model: fetch", "fp32 onnx: export", "fp32 onnx: quantize", "fp32/onnxruntime: build"):
        assert f"{step} cached" in log
        assert f"{step} done" not in log
    assert "FAIL" in found[f"candidates-{NAME}"]
    assert MODEL_URI in found[f"release-{NAME}"]
    assert float(found["progress-benchmark-target-x86"]) == 100
    connection = workshop(team.project).registry._connection
    (recorded,) = connection.search_runs(connection.experiment("slipway"), "tags.`slipway.kind` = 'release'")
    assert recorded.data.tags["slipway.prefect_run"].endswith(f"/runs/flow-run/{run.id}")


def test_reconcile_asks_for_what_is_missing_and_nothing_twice(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(team.project)  # where its worker would run it

    told = [reconcile(return_state=True).message]
    wait_for(lambda: len(requests(NAME)) == 1, 180)
    told.append(reconcile(return_state=True).message)
    with team.worker():
        # What the automation does with the request.
        (released,) = team.ended(team.start(DEPLOYMENT, model=MODEL_URI, params="params.yaml", reason="asked for"))
    told.append(reconcile(return_state=True).message)
    assert register(team.project, NAME, 2) == "2"
    told.append(reconcile(return_state=True).message)
    wait_for(lambda: len(requests(NAME)) == 2, 180)
    told.append(reconcile(return_state=True).message)

    assert released.state_name == "PASS"
    first, second = f"asked for {NAME} version 1", f"asked for {NAME} version 2"
    assert told == [first, "nothing is due", "nothing is due", second, "nothing is due"]
    assert sorted(one.version for one in requests(NAME)) == ["1", "2"]
