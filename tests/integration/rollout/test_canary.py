"""Whole rollouts: two served engines behind a real gateway, clients in an open loop, and what goes wrong in between."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from slipway.records import Phase
from slipway.rollout.contenders import RunningGateway
from slipway.rollout.gateway.data_plane import DataPlane, Plan
from slipway.rollout.gateway.running import gateway_folder
from slipway.rollout.store.rollouts import RolloutStore
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.wiring import workshop
from tests.integration.conftest import Command, Project
from tests.integration.rollout.canary_project import (
    ENGINE,
    EXAMPLES,
    NAME,
    TARGET,
    make_canary_project,
    write_params,
)
from tests.integration.rollout.poisson_load import PoissonLoad
from tests.unit.steps.material import answers, images, tiny_module

pytestmark = pytest.mark.integration

PER_S = 50.0
ROLLOUT_SECONDS = 600.0  # on a loaded host latencies depend on those before, and take that long to tell anything
CANARY = ("canary", NAME, "--target", TARGET, "--json")


@pytest.fixture(scope="session")
def _canary_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("canary") / "project"
    make_canary_project(root)
    return root


@pytest.fixture
def project(_canary_made: Path, tmp_path: Path) -> Project:
    """A project of its own, whose version 1 is champion."""
    root = tmp_path / "project"
    shutil.copytree(_canary_made, root)
    return Project(root)


class Traffic(NamedTuple):
    """A running gateway and its clients."""

    running: RunningGateway
    load: PoissonLoad
    store: RolloutStore
    registry: MlflowRegistry
    pid: int

    def share(self) -> float:
        """The challenger's share in percent."""
        return self.running.share()

    def kill_server(self, alias: str) -> None:
        """Kill the processes that serve it, if any do now."""
        for one in psutil.Process(self.pid).children():
            with suppress(psutil.NoSuchProcess):
                if f"--alias {alias}" in " ".join(one.cmdline()):
                    for process in [one, *one.children(recursive=True)]:
                        process.kill()

    def envoy(self) -> psutil.Process:
        """Envoy's process."""
        (found,) = [one for one in psutil.Process(self.pid).children() if "envoy" in one.name()]
        return found


@contextmanager
def traffic(project: Project, per_s: float = PER_S) -> Iterator[Traffic]:
    """`slipway gateway` with clients; the challenger's server starts once there is one."""
    with project.start("gateway", NAME, "--target", TARGET, "--port", "0") as command:
        command.wait_for(lambda: re.search(r" at http://\S+\n", command.stderr) is not None)
        found = re.search(r" at (http://\S+)\n", command.stderr)
        assert found is not None
        shop = workshop(project.root)
        running = RunningGateway(gateway_folder(shop.state, ENGINE))
        with PoissonLoad(found[1], per_s) as load:
            yield Traffic(running, load, shop.rollouts, shop.registry, command._process.pid)
        command.send(signal.SIGTERM)
        assert command.ended() == 0


def run_canary(project: Project, *options: str) -> tuple[int, Command]:
    """A controller from its start to its end."""
    with project.start(*CANARY, *options) as command:
        return command.ended(ROLLOUT_SECONDS), command


def reached(command: Command, words: str) -> None:
    """Wait until the controller has told of a look with these words."""
    deadline = time.monotonic() + ROLLOUT_SECONDS
    while words not in command.stderr:
        assert command.runs(), command.stderr
        assert time.monotonic() < deadline, command.stderr
        time.sleep(0.1)


def test_a_good_challenger_is_promoted_and_its_course_kept(project: Project) -> None:
    with traffic(project) as on:
        code, command = run_canary(project, "--version", "2")
        assert (code, command.object["phase"]) == (0, "Promoted"), command.stderr
        assert on.share() == 0
        assert on.running.opened("champion") == "2"
    assert on.load.failures == []
    assert on.load.answered > 200
    assert on.registry.aliases(ENGINE) == {"champion": "2", "previous": "1"}
    phases = dict.fromkeys(f"{one.phase} {one.step}" for one in on.store.history(command.object["rollout_id"]))
    assert list(phases) == ["Pending -1", "Progressing 0", "Progressing 1", "Promoted 1"]
    tags = on.registry.version(ENGINE, "2").tags
    assert (tags["slipway.decision"], tags["slipway.rollout_phase"]) == ("promoted", "Promoted")
    kept = {one.path for one in on.registry._connection.client.list_artifacts(tags["slipway.rollout_run"])}
    assert kept == {"rollout.jsonl", "rollout.png", "rollout.html"}

    code, again = run_canary(project)
    assert (code, again.object["exit_code"]) == (5, 5), "the gateway has ended"
    assert "slipway gateway tiny --target x86" in again.stderr


def test_without_traffic_it_is_inconclusive(project: Project) -> None:
    write_params(project.root, max_minutes=0.05)
    with traffic(project, per_s=1e-3) as on:
        code, command = run_canary(project, "--version", "2")
        assert (code, command.object["phase"], command.object["verdict"]) == (4, "Inconclusive", "INCONCLUSIVE")
        assert on.share() == 0
    assert "no traffic" in command.object["reasons"][0]
    assert on.registry.aliases(ENGINE) == {"champion": "1", "challenger": "2"}


def test_30_ms_in_5_percent_of_the_calls_roll_it_back_by_latency(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(project.root, slo_p99_ms=25.0, accuracy_margin=0.2)
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    shop = workshop(project.root)
    shop.registry.set_challenger(ENGINE, "2")

    def serve(alias: str, port: int, log: Path) -> list[str]:
        place = ["--alias", alias, "--port", str(port), "--access-log", str(log)]
        real = [sys.executable, "-m", "slipway.cli", "serve", NAME, "--target", TARGET, *place]
        fault = ["0.05", "0.03"] if alias == "challenger" else ["0", "0"]
        return [sys.executable, "-m", "tests.integration.rollout.slow_server", str(port), *fault, *real]

    told: list[str] = []
    plan = Plan(ENGINE, gateway_folder(shop.state, ENGINE), port=0)
    with DataPlane(plan, serve, lambda: True, told.append) as plane:
        keeping = threading.Thread(target=plane.run, args=(lambda: None,))
        keeping.start()
        assert plane.gateway is not None
        with PoissonLoad(plane.gateway.address, PER_S) as load:
            code, command = run_canary(project)
        plane.stop()
        keeping.join()
    assert (code, command.object["phase"]) == (3, "RolledBack"), command.stderr
    assert command.object["reasons"][0].startswith("latency_p9")
    assert load.failures == []
    assert shop.registry.aliases(ENGINE) == {"champion": "1"}
    assert shop.registry.version(ENGINE, "2").tags["slipway.decision"] == "rolled back"


def test_a_less_accurate_one_is_rolled_back_although_some_labels_come_late(project: Project, tmp_path: Path) -> None:
    """Version 3 answers 6% of the examples otherwise, and there the champion is right; 10% of the labels never come."""
    write_params(project.root, accuracy_margin=0.01, step_requests=5000)
    right = answers(tiny_module(), images(EXAMPLES)).argmax(1)
    in_time = np.random.default_rng(0)
    with traffic(project, per_s=80.0) as on, project.start(*CANARY, "--version", "3") as command:
        reached(command, "step 1 of 2")
        labelled: set[str] = set()
        while command.runs():
            new = [one for one in list(on.load.asked) if one not in labelled]
            labelled |= set(new)
            lines = [f"{one},{right[on.load.asked[one]]}" for one in new if in_time.random() > 0.1]
            file = tmp_path / "labels.csv"
            file.write_text("\n".join(["request_id,label", *lines]) + "\n", encoding="utf-8")
            assert project.run("labels", str(file), "--name", NAME, "--target", TARGET)[0] == 0
        code = command.ended(ROLLOUT_SECONDS)
    assert (code, command.object["phase"]) == (3, "RolledBack"), command.stderr
    assert command.object["reasons"][0].startswith("accuracy: loses at least ")
    assert on.load.failures == []
    assert on.registry.aliases(ENGINE) == {"champion": "1"}


def test_a_challenger_killed_at_25_percent_costs_no_request_and_is_rolled_back(project: Project) -> None:
    write_params(project.root, step_requests=5000, error_margin=0.02)
    with traffic(project) as on, project.start(*CANARY, "--version", "2") as command:
        command.wait_for(lambda: on.share() == 25 and "accuracy" in command.stderr)
        while command.runs():  # the gateway starts it anew, and it dies again
            on.kill_server("challenger")
            time.sleep(1)
        code = command.ended(ROLLOUT_SECONDS)
        assert on.share() == 0
    assert (code, command.object["phase"]) == (3, "RolledBack"), command.stderr
    assert command.object["reasons"][0].startswith("errors: ")
    assert on.load.failures == []
    assert on.registry.aliases(ENGINE) == {"champion": "1"}


def test_a_controller_killed_at_every_step_resumes_there(project: Project) -> None:
    write_params(project.root, bake_minutes=0.2)
    with traffic(project) as on:
        for words, share in (("step 1 of 2", 25.0), ("step 2 of 2", 50.0), ("Promoted", 100.0)):
            with project.start(*CANARY, *(["--version", "2"] if share == 25 else [])) as command:
                reached(command, words)
                command.wait_for(lambda share=share: on.share() == share)  # type: ignore[misc]
                command.send(signal.SIGKILL)
                assert command.ended() == -signal.SIGKILL
            assert on.share() == share, "it stays, until the dead man moves it"
            state = on.store.latest(ENGINE)
            assert state is not None
            assert state.share_percent == share
        code, command = run_canary(project)
        assert (code, command.object["phase"]) == (0, "Promoted"), command.stderr
        assert on.share() == 0
    assert on.load.failures == []
    assert on.registry.aliases(ENGINE) == {"champion": "2", "previous": "1"}
    assert len({one.rollout_id for one in on.store.all_latest()}) == 1


def test_a_dead_controller_s_traffic_goes_back_to_the_champion_and_a_new_one_goes_on(project: Project) -> None:
    write_params(project.root, dead_man_seconds=10, step_requests=5000)
    with traffic(project) as on:
        with project.start(*CANARY, "--version", "2") as command:
            command.wait_for(lambda: on.share() == 25)
            command.send(signal.SIGKILL)
            command.ended()
        deadline = time.monotonic() + 120
        while on.share() > 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with project.start(*CANARY) as command:
            command.wait_for(lambda: on.share() == 25)
            command.send(signal.SIGINT)
            assert command.ended() == 130
    assert on.load.failures == []


def test_envoy_killed_comes_back_with_the_same_share(project: Project) -> None:
    write_params(project.root, step_requests=400)
    with traffic(project) as on, project.start(*CANARY, "--version", "2") as command:
        command.wait_for(lambda: on.share() == 25)
        killed = on.envoy()
        killed.kill()
        killed.wait()

        def share_again() -> float | None:
            try:
                return on.share()
            except Exception:  # noqa: BLE001 - it is down
                return None

        command.wait_for(lambda: share_again() is not None)
        assert share_again() == 25
        command.send(signal.SIGINT)
        assert command.ended() == 130
        assert "then all goes to the champion" in command.stderr


def test_a_person_approves_and_afterwards_rolls_back(project: Project) -> None:
    write_params(project.root, approval=True)
    approve = ("approve", ENGINE, "2", "--reason", "looks fine", "--json")
    with traffic(project) as on:
        with project.start(*CANARY, "--version", "2") as command:
            reached(command, "WaitingForApproval")
            code, other = run_canary(project)
            assert (code, other.object["exit_code"]) == (3, 3)
            assert "is at work already" in other.stderr
            for _ in range(2):  # twice does no harm
                code, approved = project.run(*approve)
                assert (code, approved.object["verdict"]) == (0, "PASS"), approved.stderr
            assert command.ended(ROLLOUT_SECONDS) == 0, command.stderr
        assert on.registry.aliases(ENGINE) == {"champion": "2", "previous": "1"}
        assert on.registry.version(ENGINE, "2").tags["slipway.reason"] == "looks fine"
        code, rolled = project.run("rollback", NAME, "--target", TARGET, "--json")
        assert (code, rolled.object["champion"], rolled.object["traffic_moved"]) == (0, "1", True)
    assert on.load.failures == []
    assert on.registry.aliases(ENGINE) == {"champion": "1"}


def test_rollback_ends_a_rollout_that_is_under_way(project: Project) -> None:
    """The controller, which looks every second, sets its share no more while the command still asks the registry."""
    write_params(project.root, step_requests=5000)
    shares: list[tuple[float, float]] = []
    with traffic(project) as on, project.start(*CANARY, "--version", "2") as command:
        command.wait_for(lambda: on.share() == 25)

        def watch() -> None:
            while command.runs():
                shares.append((time.time(), on.share()))
                time.sleep(0.02)

        watching = threading.Thread(target=watch)
        watching.start()
        code, rolled = project.run("rollback", NAME, "--target", TARGET, "--json")
        assert (code, rolled.object["champion"], rolled.object["withdrawn"]) == (0, "1", "2")
        assert command.ended() == 3, command.stderr
        watching.join()
        (told_s,) = [one.at_s for one in on.store.events(command.object["rollout_id"]) if one.kind == "withdrawn"]
        assert {share for at_s, share in shares if at_s > told_s + 1} == {0}
        assert on.share() == 0
        state = project.run("status", ENGINE, "--json")[1].object["rollouts"]
        assert [one["phase"] for one in state] == [Phase.ROLLED_BACK]
    assert on.load.failures == []


def test_what_cannot_be_compared_is_told_before_anything_moves(project: Project) -> None:
    for arguments, code, told in (
        ((), 5, "no gateway runs for tiny.x86; start one: `slipway gateway tiny --target x86`"),
        (("--target", "arm"), 2, "target 'arm' is not in the parameters; known: x86"),
    ):
        ended, command = project.run("canary", NAME, *(arguments or ("--target", TARGET)))
        assert ended == code
        assert told in command.stderr
    with traffic(project, per_s=1e-3) as on:
        for version, code, told in ((None, 2, "has no challenger"), ("1", 2, "nothing to compare"), ("9", 2, "9")):
            ended, command = run_canary(project, *(["--version", version] if version else []))
            assert (ended, command.object["exit_code"]) == (code, code)
            assert told in command.stderr
        assert on.share() == 0
    assert json.loads(project.run("status", "--json")[1].stdout) == {"rollouts": []}
