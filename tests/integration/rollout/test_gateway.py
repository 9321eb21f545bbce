"""A real Envoy before real servers: shares, faults, mirrored requests, and the gateway that keeps all of it running."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from scipy.stats import binom

from slipway.errors import BadInputError, InfrastructureError
from slipway.rollout.gateway.data_plane import DataPlane, Plan
from slipway.rollout.gateway.envoy_config import CHALLENGER, CHAMPION
from slipway.rollout.gateway.logs import Shared, older, rotate_renamed
from slipway.rollout.gateway.running import Gateway, load_gateway
from slipway.rollout.splitters.envoy import EnvoySplitter
from slipway.stores.registry import Registry
from slipway.wiring import workshop
from tests.contract.splitters.edge import INFER, Answer, Edge, arms, ask_once, wait_for
from tests.fakes.evidence import release as release_of
from tests.integration.conftest import Project

pytestmark = pytest.mark.integration

ARM = Path(__file__).parents[2] / "contract/splitters/arm.py"
KEYS = ["start_s", "request_id", "asked", "answered", "code", "upstream_us", "total_us", "flags"]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with Edge(tmp_path) as running:
        yield running


@pytest.fixture
def mirrored(tmp_path: Path) -> Iterator[Edge]:
    with Edge(tmp_path, shadow=True) as running:
        yield running


def lines(edge: Edge, count: int) -> list[dict[str, Any]]:
    """The access log once it has so many lines; Envoy writes them late."""
    wait_for(lambda: edge.places.access_log.exists() and edge.places.access_log.read_bytes().count(b"\n") >= count)
    return [json.loads(line) for line in edge.places.access_log.read_text().splitlines()]


def within(count: int, requests: int, percent: float) -> bool:
    """Whether the challenger got what chance allows, but in one of 10^9 runs."""
    low, high = binom.interval(1 - 1e-9, requests, percent / 100)
    return bool(low <= count <= high)


@pytest.mark.parametrize("percent", [10, 1, 0.5])
def test_two_thousand_requests_are_shared_within_what_chance_allows(edge: Edge, percent: float) -> None:
    edge.splitter.set_share(percent)
    answered = arms(edge.ask(2000))

    assert edge.splitter.share() == percent
    assert answered[None] == 0
    assert within(answered[CHALLENGER], 2000, percent)


def test_after_a_rollback_none_of_five_hundred_goes_to_the_challenger(edge: Edge) -> None:
    took_s: list[float] = []
    for _ in range(3):  # a busy host may hold one up
        edge.splitter.set_share(50)
        assert arms(edge.ask(100))[CHALLENGER] > 0

        begun_s = time.monotonic()
        edge.splitter.rollback()
        took_s.append(time.monotonic() - begun_s)
        assert arms(edge.ask(500)) == {CHAMPION: 500}
    assert min(took_s) < 1


def test_a_rollback_while_another_process_sets_a_share_wins(edge: Edge) -> None:
    other = EnvoySplitter(edge.gateway)
    setting = [threading.Thread(target=other.set_share, args=(share,)) for share in (50, 25, 10)]
    for thread in setting:
        thread.start()
    edge.splitter.rollback()
    assert edge.splitter.share() in {0, 50, 25, 10}  # those that came later hold
    for thread in setting:
        thread.join()
    edge.splitter.rollback()
    assert edge.splitter.share() == 0


def test_a_challenger_killed_under_load_costs_no_request(edge: Edge) -> None:
    edge.splitter.set_share(25)
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.extend(edge.ask(1500, 16, headers={"x-slow-s": "0.01"})))
    asking.start()
    wait_for(lambda: len(edge.seen(CHALLENGER)) > 20)
    edge.kill_arm(CHALLENGER)
    asking.join()

    answered = arms(answers)
    assert answered[None] == 0
    shared = [Shared.model_validate(line) for line in lines(edge, 1500)]
    # Who was chosen is told beside who answered: what the champion took over is no success of the challenger.
    assert within(sum(line.asked == CHALLENGER for line in shared), 1500, 25)
    assert sum((line.asked, line.answered) == (CHALLENGER, CHAMPION) for line in shared) > 20


def test_requests_that_a_killed_challenger_held_are_answered_by_the_champion(edge: Edge) -> None:
    edge.splitter.set_share(100)
    body = os.urandom(8 * 2**20)
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.extend(edge.ask(12, 12, body, headers={"x-slow-s": "challenger=60"}))
    )
    asking.start()
    wait_for(lambda: len(edge.seen(CHALLENGER)) == 12)
    edge.kill_arm(CHALLENGER)
    asking.join()

    assert arms(answers) == {CHAMPION: 12}
    assert {line["bytes"] for line in edge.seen(CHAMPION)} == {len(body)}


def test_a_challenger_that_is_not_ready_costs_no_request_and_comes_back_by_itself(edge: Edge) -> None:
    edge.splitter.set_share(100)
    assert arms(edge.ask(20, headers={"x-status": "challenger=503"})) == {CHAMPION: 20}

    edge.kill_arm(CHALLENGER)
    assert arms(edge.ask(20)) == {CHAMPION: 20}
    edge.start_arm(CHALLENGER)
    wait_for(lambda: arms(edge.ask(4)) == {CHALLENGER: 4})


def test_a_challenger_that_hangs_costs_no_request(edge: Edge) -> None:
    edge.splitter.set_share(50)
    edge.ask(20)
    edge.signal_arm(CHALLENGER, signal.SIGSTOP)
    begun_s = time.monotonic()
    answered = arms(edge.ask(40, 40))

    assert answered == {CHAMPION: 40}
    assert time.monotonic() - begun_s < 30  # sooner than a server, which may take 30 s, gives up


def test_a_challenger_that_is_no_slower_than_the_champion_answers_itself_however_long_it_takes(edge: Edge) -> None:
    edge.splitter.set_share(100)
    assert arms(edge.ask(1, headers={"x-slow-s": "12"})) == {CHALLENGER: 1}
    assert len(edge.seen(CHAMPION)) == 1  # asked too, as nobody knew


def test_wrong_answers_of_the_challenger_reach_the_client_until_it_is_left_out(edge: Edge) -> None:
    edge.splitter.set_share(100)
    answers = edge.ask(40, 1, headers={"x-status": "challenger=500"})

    assert [answer.status for answer in answers[:5]] == [500] * 5
    wait_for(lambda: edge.ask(1, headers={"x-status": "challenger=500"})[0].arm == CHAMPION)


def test_the_share_and_a_rollback_survive_the_death_of_envoy(edge: Edge) -> None:
    edge.splitter.set_share(25)
    edge.kill_envoy()
    edge.start_envoy()
    assert edge.splitter.share() == 25
    assert within(arms(edge.ask(400))[CHALLENGER], 400, 25)

    edge.splitter.rollback()
    edge.kill_envoy()
    edge.start_envoy()
    assert edge.splitter.share() == 0
    assert arms(edge.ask(200)) == {CHAMPION: 200}


def test_a_rollback_that_envoy_did_not_hear_holds_when_it_is_started(edge: Edge) -> None:
    edge.splitter.set_share(50)
    edge.kill_envoy()
    with pytest.raises(InfrastructureError, match="did not answer"):
        edge.splitter.rollback()

    edge.start_envoy()
    assert edge.splitter.share() == 0
    assert arms(edge.ask(100)) == {CHAMPION: 100}


def test_mirrored_requests_bear_the_same_id_and_only_the_champions_are_mirrored(mirrored: Edge) -> None:
    assert arms(mirrored.ask(50, headers={"x-status": "challenger=500"})) == {CHAMPION: 50}
    wait_for(lambda: len(mirrored.seen(CHALLENGER)) == 50)
    ids = {line["id"] for line in mirrored.seen(CHAMPION)}
    assert ids == {line["id"] for line in mirrored.seen(CHALLENGER)}
    assert len(ids) == 50

    mirrored.splitter.set_share(100)
    assert arms(mirrored.ask(20))[None] == 0
    wait_for(lambda: len(lines(mirrored, 70)) == 70)
    assert len(mirrored.seen(CHALLENGER)) == 70  # asked once each


def test_mirroring_is_switched_off_and_on_at_once_and_stays_so(mirrored: Edge) -> None:
    mirrored.splitter.set_shadow(False)
    mirrored.ask(20)
    mirrored.splitter.set_share(0)  # the file is written anew and keeps it
    mirrored.kill_envoy()
    mirrored.start_envoy()
    mirrored.ask(20)
    mirrored.splitter.set_shadow(True)
    mirrored.ask(1)

    wait_for(lambda: mirrored.seen(CHALLENGER))
    assert len(mirrored.seen(CHAMPION)) == 41
    assert len(mirrored.seen(CHALLENGER)) == 1


@pytest.mark.parametrize("harm", ["stopped", "killed", "slow"])
def test_whatever_the_mirrored_server_does_hurts_no_caller(mirrored: Edge, harm: str) -> None:
    body = os.urandom(2**20)
    if harm == "stopped":
        mirrored.signal_arm(CHALLENGER, signal.SIGSTOP)
    elif harm == "killed":
        mirrored.kill_arm(CHALLENGER)
    begun_s = time.monotonic()
    answers = mirrored.ask(100, 8, body, headers={"x-slow-s": "challenger=20"})

    assert arms(answers) == {CHAMPION: 100}
    assert time.monotonic() - begun_s < 20


def test_the_access_log_tells_each_shared_request(edge: Edge) -> None:
    begun_s = time.time()
    edge.splitter.set_share(100)
    odd = 'a "quoted" \\ id'
    assert edge.ask(1, headers={"x-request-id": odd})[0].request_id == odd
    generated = edge.ask(1)[0].request_id
    edge.kill_arm(CHALLENGER)
    edge.kill_arm(CHAMPION)
    assert edge.ask(1, headers={"x-request-id": "lost"})[0].status == 503

    found = lines(edge, 3)
    assert [sorted(line) for line in found] == [sorted(KEYS)] * 3
    assert [line["request_id"] for line in found] == [odd, generated, "lost"]
    assert [line["asked"] for line in found] == [CHALLENGER] * 3
    assert [line["answered"] for line in found[:2]] == [CHALLENGER] * 2
    assert [line["code"] for line in found] == [200, 200, 503]
    for line in found:
        assert isinstance(line["start_s"], float)
        assert begun_s - 0.01 < line["start_s"] < time.time()
    assert all(0 < line["upstream_us"] <= line["total_us"] for line in found[:2])
    assert found[2]["upstream_us"] is None
    assert found[2]["flags"]
    assert [request.request_id for request in edge.splitter.requests(begun_s)] == [odd, generated, "lost"]


def test_only_inference_is_shared_and_all_else_is_the_champions(edge: Edge) -> None:
    edge.splitter.set_share(100)
    for path in ("/v2/health/ready", "/v2/models/m", "/metrics", "/"):
        assert edge.get(path).arm == CHAMPION
    assert edge.get("/v2/models/m/versions/3/infer", "POST").arm == CHAMPION
    assert edge.get("/v2/repository/index", "POST").arm == CHAMPION
    assert edge.get(f"{INFER}?x=1", "POST").arm == CHALLENGER

    assert [line["answered"] for line in lines(edge, 1)] == [CHALLENGER]


def test_no_header_of_a_client_changes_time_outs_or_the_share(edge: Edge) -> None:
    edge.splitter.set_share(0)
    headers = {
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-max-retries": "0",
        "x-envoy-internal": "true",
        "x-slow-s": "0.2",
    }
    assert arms(edge.ask(4, headers=headers)) == {CHAMPION: 4}
    assert not [name for line in edge.seen(CHAMPION) for name in line["headers"] if "timeout" in name.lower()]


def test_a_log_that_is_rotated_loses_no_line(edge: Edge) -> None:
    begun_s = time.time()
    edge.ask(30)
    lines(edge, 30)
    rotate_renamed(edge.places.access_log, edge.admin.reopen_logs, max_bytes=1)
    edge.ask(20)
    wait_for(lambda: edge.places.access_log.exists() and edge.places.access_log.read_bytes().count(b"\n") == 20)

    assert older(edge.places.access_log).read_bytes().count(b"\n") == 30
    assert len(edge.splitter.requests(begun_s)) == 50


def test_an_envoy_that_cannot_bind_says_so(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    with (
        socket.create_server(("127.0.0.1", edge.places.port)),
        pytest.raises(InfrastructureError, match=r"Envoy does not start: .*[Aa]ddress already in use"),
        edge,
    ):
        pass


class Aliases:
    """A registry as far as a gateway asks it."""

    challenger = False


def serve(alias: str, port: int, log: Path) -> list[str]:
    """A small server in the place of ``slipway serve``."""
    return [sys.executable, str(ARM), alias, str(port), str(log)]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def aliases() -> Aliases:
    return Aliases()


@pytest.fixture
def plane(tmp_path: Path, aliases: Aliases, told: list[str]) -> Iterator[DataPlane]:
    plan = Plan("m.x86", tmp_path / "gateway" / "m.x86", port=0)
    running = DataPlane(plan, serve, lambda: aliases.challenger, told.append)
    ticks: list[int] = []
    with running:
        thread = threading.Thread(target=running.run, args=(lambda: ticks.append(1), 0.05))
        thread.start()
        try:
            yield running
        finally:
            running.stop()
            thread.join()
    assert ticks


def children(fragment: str) -> list[psutil.Process]:
    """This process's descendants with such a command line."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if fragment in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_a_gateway_serves_a_challenger_while_there_is_one_and_lets_nobody_in_beside_it(
    plane: DataPlane, aliases: Aliases
) -> None:
    assert plane.gateway is not None
    found = load_gateway(plane.gateway.folder)
    assert found == plane.gateway
    port = int(found.address.rpartition(":")[2])
    splitter = EnvoySplitter(found)
    splitter.set_share(100)
    assert ask_once(port, "POST", INFER).arm == CHAMPION

    aliases.challenger = True
    wait_for(lambda: ask_once(port, "POST", INFER).arm == CHALLENGER)
    aliases.challenger = False
    wait_for(lambda: not children("arm.py challenger"))
    assert ask_once(port, "POST", INFER).arm == CHAMPION

    second = DataPlane(Plan("m.x86", found.folder, port=0), serve, lambda: False, print)
    with pytest.raises(BadInputError, match=rf"runs already \(process {os.getpid()}\)"), second:
        pass
    assert load_gateway(found.folder) == found


def test_whatever_is_killed_is_started_again_with_the_same_share(
    plane: DataPlane, aliases: Aliases, told: list[str]
) -> None:
    assert plane.gateway is not None
    port = int(plane.gateway.address.rpartition(":")[2])
    aliases.challenger = True
    splitter = EnvoySplitter(plane.gateway)
    splitter.set_share(100)
    wait_for(lambda: ask_once(port, "POST", INFER).arm == CHALLENGER)

    for fragment in ("arm.py challenger", "arm.py champion", "envoy"):
        (victim,) = children(fragment)
        victim.kill()
        wait_for(lambda fragment=fragment, victim=victim: [one for one in children(fragment) if one.pid != victim.pid])
    wait_for(lambda: ask_once(port, "POST", INFER).arm == CHALLENGER)
    assert splitter.share() == 100
    assert sum("ended (signal 9" in line for line in told) == 3


def test_a_gateway_that_ends_leaves_nothing_but_its_share(tmp_path: Path) -> None:
    plan = Plan("m.x86", tmp_path / "gateway" / "m.x86", port=0)
    for expected in (0.0, 25.0):
        with DataPlane(plan, serve, lambda: True, lambda _: None) as running:
            assert running.gateway is not None
            splitter = EnvoySplitter(running.gateway)
            assert splitter.share() == expected
            splitter.set_share(25)
        assert not children("arm.py")
        assert not children("envoy")
        with pytest.raises(InfrastructureError, match=r"start one: `slipway gateway m --target x86`"):
            load_gateway(plan.folder)


def test_a_champion_that_cannot_be_served_ends_the_gateway_with_its_reason(tmp_path: Path) -> None:
    def broken(*_: object) -> list[str]:
        return ["sh", "-c", "echo slipway: m.x86 has no champion >&2; exit 2"]

    plane = DataPlane(Plan("m.x86", tmp_path / "gateway" / "m.x86", port=0), broken, lambda: False, print)
    with pytest.raises(BadInputError, match=r"m\.x86 cannot be served: .*has no champion"), plane:
        pass
    assert not children("envoy")


def test_a_taken_port_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plane = DataPlane(Plan("m.x86", tmp_path / "gateway" / "m.x86", port=port), serve, lambda: False, print)
        with pytest.raises(BadInputError, match=rf"cannot listen on 127\.0\.0\.1:{port}: "), plane:
            pass
    assert not children("arm.py")


def infer(found: Gateway, asks: int, until: Callable[[], bool] = lambda: True) -> list[int]:
    """The statuses of so many requests for inference, and of more until something has happened."""
    with urllib.request.urlopen(f"{found.address}/v2/models/tiny.x86", timeout=30) as answer:
        (tensor,) = json.load(answer)["inputs"]
    tensor |= {"shape": [1, *tensor["shape"][1:]]}
    body = json.dumps({"inputs": [tensor | {"data": [0] * math.prod(tensor["shape"])}]}).encode()
    statuses: list[int] = []
    deadline = time.monotonic() + 300
    while len(statuses) < asks or not until():
        assert time.monotonic() < deadline, "it has not happened"
        place = f"{found.address}/v2/models/tiny.x86/infer"
        request = urllib.request.Request(place, body, {"x-request-id": f"mine-{len(statuses)}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["outputs"]
                statuses.append(answer.status)
        except (urllib.error.URLError, HTTPException, OSError) as error:
            statuses.append(getattr(error, "code", 0))
    return statuses


def another_version(registry: Registry, folder: Path) -> str:
    """A version of the champion's own engine file, with evidence of its own."""
    champion = registry.version("tiny.x86", registry.aliases("tiny.x86")[CHAMPION])
    evidence = champion.evidence.model_copy(update={"code_revision": "another"})
    path = registry.engine_path("tiny.x86", champion.version, folder)
    recorded = registry.record_release(release_of(evidence, model="tiny"), {champion.digest: path}, [])
    return registry.register("tiny.x86", recorded, evidence)


def test_the_command_serves_what_was_released_and_a_killed_challenger_costs_no_request(
    project: Project, tmp_path: Path
) -> None:
    project.release()
    registry = workshop(project.root).registry
    with project.start("gateway", "tiny", "--target", "x86", "--port", "0", "--json") as command:
        command.wait_for(lambda: re.search(r"tiny\.x86 at http://\S+\n", command.stderr) is not None)
        found = load_gateway(project.root / ".slipway" / "gateway" / "tiny.x86")
        assert command.object["address"] == found.address
        assert set(infer(found, 20)) == {200}

        registry.set_challenger("tiny.x86", another_version(registry, tmp_path))
        splitter = EnvoySplitter(found)
        splitter.set_share(50)
        answered = partial(_answered, splitter)
        assert set(infer(found, 0, lambda: answered(CHALLENGER) > 10)) == {200}
        servers = [one for one in command.descendants() if "--alias challenger" in " ".join(one.cmdline())]
        for server in servers:
            for process in [*server.children(recursive=True), server]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        assert set(infer(found, 100)) == {200}
        before = answered(CHALLENGER)
        assert set(infer(found, 0, lambda: answered(CHALLENGER) > before + 10)) == {200}  # it is back

        assert '"request_id":"mine-0"' in found.champion_log.read_text()
        assert "the challenger's server ended (signal 9" in command.stderr
        command.send(signal.SIGTERM)
        assert command.ended() == 0
        assert not command.left()
    assert not (found.folder / "gateway.json").exists()


def _answered(splitter: EnvoySplitter, arm: str) -> int:
    return sum(request.answered == arm for request in splitter.requests(0))
