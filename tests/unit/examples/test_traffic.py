from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from slipway.errors import InfrastructureError
from slipway.examples.recipe import Split
from slipway.examples.traffic import Labels, Service, Traffic
from slipway.serving.http.payload import read_infer_request

SPLIT = Split(
    np.random.default_rng(0).normal(size=(20, 1, 4, 4)).astype(np.float32), np.arange(20, dtype=np.int64) % 10
)
DEADLINE_SECONDS = 60.0


class Server:
    """Reads each request as `slipway serve` does, and answers with ``status``; ``slow_s`` is how long that takes."""

    def __init__(self) -> None:
        self.status, self.slow_s = 200, 0.0
        self.asked: dict[str, np.ndarray] = {}
        self.paths: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = read_infer_request(body, int(self.headers["Inference-Header-Content-Length"]))
                outer.paths.add(self.path)
                outer.asked[self.headers["X-Request-ID"]] = request.arrays["image"]
                time.sleep(outer.slow_s)
                self.send_response(outer.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.service = Service(f"http://127.0.0.1:{self._http.server_port}", "tiny.x86", "image")
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_test_examples_are_asked_and_what_was_right_for_them_told(server: Server) -> None:
    told: Labels = {}
    with Traffic(server.service, SPLIT, 200, told.update) as traffic:
        wait_for(lambda: len(told) > 50)

    assert server.paths == {"/v2/models/tiny.x86/infer"}
    assert traffic.failures == []
    assert sorted(traffic.answered) == sorted(server.asked)
    for request_id, label in told.items():
        (right,) = (one for one in range(20) if np.array_equal(server.asked[request_id], SPLIT.inputs[one : one + 1]))
        assert label == (SPLIT.labels[right],)
    assert len({array.tobytes() for array in server.asked.values()}) > 10


def test_requests_come_whatever_the_answers_take(server: Server) -> None:
    """One client after another could ask once in the time."""
    server.slow_s = 1.0
    with Traffic(server.service, SPLIT, 100, lambda _: None) as traffic:
        wait_for(lambda: len(server.asked) >= 10)
        assert traffic.answered == []
    assert len(traffic.answered) == len(server.asked)


def test_what_was_not_answered_is_a_failure_and_gets_no_label(server: Server) -> None:
    server.status = 503
    told: Labels = {}
    with Traffic(server.service, SPLIT, 200, told.update) as traffic:
        wait_for(lambda: len(traffic.failures) > 20)
    assert traffic.failures[0] == "503: {}"
    assert (traffic.answered, told) == ([], {})


def test_where_nobody_listens_every_request_is_a_failure() -> None:
    with Traffic(Service("http://127.0.0.1:1", "tiny.x86", "image"), SPLIT, 200, lambda _: None) as traffic:
        wait_for(lambda: len(traffic.failures) > 20)
    assert "Connection refused" in traffic.failures[0]


def test_labels_that_the_store_did_not_take_are_sent_again(server: Server) -> None:
    told: list[Labels] = []

    def send(labels: Labels) -> None:
        told.append(dict(labels))
        if len(told) == 1:
            raise InfrastructureError("the store is down")

    with Traffic(server.service, SPLIT, 100, send):
        wait_for(lambda: len(told) >= 3)
    assert told[0].items() <= told[1].items()
    assert not told[1].keys() & told[2].keys()
