from __future__ import annotations

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from slipway.errors import InfrastructureError
from slipway.rollout import contenders
from slipway.rollout.contenders import RunningGateway, await_contenders
from slipway.rollout.gateway.running import Gateway, gateway_folder, publish
from tests.unit.rollout.rollouts import NAME, rollout


class Place:
    """A server of JSON by path, as Envoy's admin and the engines' servers are."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        pages = self.pages

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = pages.get(self.path.partition("?")[0])
                self.send_response(404 if found is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def place() -> Iterator[Place]:
    found = Place()
    yield found
    found.close()


@pytest.fixture
def running(place: Place, tmp_path: Path) -> RunningGateway:
    """A gateway whose champion serves version 1, and whose challenger has no server yet."""
    folder = gateway_folder(tmp_path, NAME)
    folder.mkdir(parents=True)
    url = f"http://127.0.0.1:{place.port}"
    logs = {f"{log}_log": folder / f"{log}.log" for log in ("access", "champion", "challenger")}
    publish(Gateway(name=NAME, address=url, admin=url, folder=folder, pid=os.getpid(), **logs))
    place.pages[f"/v2/models/{NAME}"] = {"name": NAME, "versions": ["1"]}
    place.pages["/clusters"] = {"cluster_statuses": [status("champion", place.port), status("challenger", None)]}
    return RunningGateway(folder)


def status(cluster: str, port: int | None, **health: bool) -> dict[str, Any]:
    """A cluster with one server, as Envoy tells it."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port or 1}}
    unwell = {} if port else {"failed_active_health_check": True}
    return {"name": cluster, "host_statuses": [{"address": address, "health_status": unwell | health}]}


def test_the_version_that_a_server_has_opened(running: RunningGateway, place: Place) -> None:
    assert running.opened("champion") == "1"
    assert running.opened("challenger") is None
    assert running.opened("nobody") is None

    place.pages["/clusters"]["cluster_statuses"][0] = status("champion", place.port, failed_outlier_check=True)
    assert running.opened("champion") is None, "Envoy would not ask it"
    place.pages["/clusters"]["cluster_statuses"][0] = status("champion", place.port, failed_outlier_check=False)
    del place.pages[f"/v2/models/{NAME}"]
    assert running.opened("champion") is None, "it has nothing open"


def test_a_rollout_waits_until_both_servers_have_opened_their_engines(running: RunningGateway, place: Place) -> None:
    """Both are one server here: once it tells 2, the champion's has opened 1 before."""
    renewed = []

    def renew() -> None:
        renewed.append(1)
        place.pages["/clusters"]["cluster_statuses"][1] = status("challenger", place.port)
        place.pages[f"/v2/models/{NAME}"]["versions"] = ["2"]

    await_contenders(running, rollout(), renew, lambda: False)

    assert renewed == [1]


def test_nothing_is_waited_for_once_somebody_has_spoken(running: RunningGateway) -> None:
    """A challenger that was rejected has no server any more."""
    await_contenders(running, rollout(), lambda: pytest.fail("it waits"), lambda: True)


def test_a_server_that_opens_something_else_is_named(
    running: RunningGateway, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "OPEN_SECONDS", 0.0)
    place.pages["/clusters"]["cluster_statuses"][1] = status("challenger", place.port)

    with pytest.raises(
        InfrastructureError, match=r"the challenger's server has version 1 open .*serve-challenger\.txt"
    ):
        await_contenders(running, rollout(), lambda: None, lambda: False)


def test_a_gateway_that_has_ended_is_told_of(running: RunningGateway) -> None:
    (running.gateway.folder / "gateway.json").unlink()

    with pytest.raises(InfrastructureError, match=r"no gateway runs for digits\.x86"):
        running.share()
