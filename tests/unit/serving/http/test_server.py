"""The socket on which the protocol is spoken."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time

import pytest
import uvicorn

from slipway.errors import BadInputError
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.access_log import AccessLog
from slipway.serving.http.app import InferenceServer
from slipway.serving.http.http_guard import GuardedProtocol
from slipway.serving.http.limits import Limits
from slipway.serving.http.server import address, bound, http_server


def test_an_address_that_cannot_be_listened_on_is_told() -> None:
    with bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address(taken) == f"http://127.0.0.1:{port}/v2"
        with pytest.raises(BadInputError, match=rf"cannot listen on 127.0.0.1:{port}: .*; give another --host or --p"):
            bound("127.0.0.1", port)


OPEN_FILES = """
import resource, sys
from slipway.serving.http.server import open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
assert open_files(2048) == open_files(2048) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("hard", "allowed"), [(4096, 2048), (512, 512)])
def test_as_many_files_may_be_open_as_connections_are_taken_or_as_the_system_grants(hard: int, allowed: int) -> None:
    command = [sys.executable, "-c", OPEN_FILES, str(hard)]
    assert int(subprocess.run(command, capture_output=True, check=True).stdout) == allowed


@pytest.mark.parametrize(
    ("files", "waiting", "answered", "kept"),
    [(20_000, 64, 1024, 1536), (3072, 64, 1024, 1536), (256, 64, 48, 96), (30_000, 10_000, 20_000, 20_512)],
)
def test_no_more_connections_are_kept_than_there_are_files_for(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, files: int, waiting: int, answered: int, kept: int
) -> None:
    monkeypatch.setattr("slipway.serving.http.server.open_files", lambda _: files)
    limits = Limits(waiting=waiting)
    config = http_server(InferenceServer(model, limits, AccessLog(None)), limits).config
    protocol = config.http
    assert isinstance(protocol, type)
    assert issubclass(protocol, GuardedProtocol)
    assert (config.limit_concurrency, protocol.most_connections) == (answered, kept)
    model.close()


def test_an_answer_is_sent_at_once_however_it_is_cut(model: ServedModel) -> None:
    server = http_server(InferenceServer(model, Limits(), AccessLog(None)), Limits())
    with bound("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        runs = threading.Thread(target=server.run, args=([listening],))
        runs.start()
        seen = accepted(server, port)
        server.should_exit = True
        runs.join()
    assert seen != 0


def accepted(server: uvicorn.Server, port: int) -> int:
    """TCP_NODELAY of the connection of a client that was answered."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request("GET", "/v2/health/live")
    client.getresponse().read()
    deadline = time.monotonic() + 30
    while not server.server_state.connections:
        assert time.monotonic() < deadline
    (connection,) = server.server_state.connections
    option: int = connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.close()
    return option
