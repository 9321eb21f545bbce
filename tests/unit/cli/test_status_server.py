from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from slipway.cli.status_server import StatusServer
from slipway.errors import BadInputError, InfrastructureError
from slipway.records import Phase, Rollout
from tests.unit.cli.conftest import Slipway
from tests.unit.rollout.rollouts import looked, rollout

Get = Callable[[str], tuple[int, str]]


@pytest.fixture
def known() -> list[Rollout]:
    """What the store tells."""
    return [looked(300), rollout(rollout_id="r2", name="faces.x86", phase=Phase.ROLLED_BACK, share_percent=0)]


@pytest.fixture
def server(known: list[Rollout]) -> Iterator[StatusServer]:
    def told() -> list[Rollout]:
        if not known:
            raise InfrastructureError("the store of rollouts does not answer")
        return known

    with StatusServer("127.0.0.1", 0, told) as server:
        answering = threading.Thread(target=server.serve_forever, args=(0.01,))
        answering.start()
        yield server
        server.shutdown()
        answering.join()


@pytest.fixture
def get(server: StatusServer) -> Get:
    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(server.address + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return get


def test_a_web_metric_reads_the_verdict_of_one_engine(get: Get) -> None:
    """The jsonPath of Argo Rollouts would be {$.rollouts[0].verdict}."""
    for path in ("/faces.x86", "/faces", "/faces.x86?at=1"):
        code, text = get(path)
        told = json.loads(text)["rollouts"]
        assert (code, [(one["name"], one["verdict"]) for one in told]) == (200, [("faces.x86", "FAIL")])
    assert [one["phase"] for one in json.loads(get("/")[1])["rollouts"]] == ["Progressing", "RolledBack"]
    assert get("/nobody") == (404, '{"error": "nobody has no rollout"}')


def test_prometheus_finds_share_phase_verdicts_and_figures(get: Get) -> None:
    code, text = get("/metrics")

    assert code == 200
    for line in (
        'slipway_rollout_share_percent{engine="digits.x86"} 1.0',
        'slipway_rollout_phase{engine="faces.x86",phase="RolledBack"} 1.0',
        'slipway_rollout_gate{engine="digits.x86",gate="errors",verdict="INCONCLUSIVE"} 1.0',
        'slipway_rollout_figure{engine="digits.x86",figure="challenger_n",gate="errors"} 300.0',
    ):
        assert line in text.splitlines()


def test_a_store_that_is_down_is_told_and_not_taken_for_a_verdict(get: Get, known: list[Rollout]) -> None:
    known.clear()
    for path in ("/", "/faces.x86", "/metrics"):
        assert get(path) == (503, '{"error": "the store of rollouts does not answer"}')


def test_an_address_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BadInputError, match=f"cannot listen on 127.0.0.1:{port}: .*; give another --listen"):
            StatusServer("127.0.0.1", port, list)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("listen", ["9109", "127.0.0.1:", "here:there"])
def test_what_is_no_address_is_refused(listen: str, slipway: Slipway) -> None:
    ended = slipway("status", "--listen", listen)
    assert (ended.code, "--listen is HOST:PORT" in ended.stderr) == (2, True)
