"""How long MLflow's client tries while its server fails, and what it does not try twice; against a real HTTP server."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow.exceptions import MlflowException

from slipway.errors import InfrastructureError
from slipway.stores.mlflow_border import RETRIES, RETRIES_VARIABLE, at_border, import_mlflow
from slipway.stores.mlflow_connection import Connection


class Server:
    """Answers what was not told to fail with what MLflow's server would, as far as these tests read it."""

    def __init__(self) -> None:
        asked, self.fails = Counter[str](), set[str]()
        self.asked, fails = asked, self.fails

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.do_GET()

            def do_PUT(self) -> None:
                self.do_POST()

            def do_GET(self) -> None:
                path = self.path.partition("?")[0].rpartition("/mlflow/")[2]
                asked[path] += 1
                body = json.dumps({"run": {"info": {"run_id": "a", "experiment_id": "0"}, "data": {}}}).encode()
                self.send_response(500 if path in fails or "-artifacts" in path else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    running = Server()
    yield running
    running.stop()


def test_a_request_is_sent_again_for_a_while_but_no_version_is_asked_for_twice(server: Server) -> None:
    """Its answer may be all that was lost; who asks again looks first whether it is there."""
    connection = Connection(server.uri, None)
    server.fails |= {"model-versions/create", "model-versions/search"}

    with pytest.raises(MlflowException, match="too many 500 error responses"):
        connection.versions("digits.x86")
    with pytest.raises(MlflowException, match="500"):
        connection.create_version("digits.x86", "m-1", None, {})

    assert server.asked["model-versions/search"] == 1 + int(RETRIES)
    assert server.asked["model-versions/create"] == 1
    assert os.environ[RETRIES_VARIABLE] == RETRIES


def test_who_chose_another_patience_has_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRIES_VARIABLE, "2")
    import_mlflow.cache_clear()
    server.fails.add("model-versions/search")

    with pytest.raises(MlflowException, match="too many 500"):
        Connection(server.uri, None).versions("digits.x86")

    assert server.asked["model-versions/search"] == 3


def test_what_failed_is_told_even_when_the_run_cannot_be_ended(server: Server) -> None:
    connection = Connection(server.uri, None)

    def fail() -> None:
        with connection.run("0", "release", {}):
            server.stop()
            raise ValueError("what failed")

    with pytest.raises(ValueError, match="what failed"):
        fail()


def test_a_server_that_has_no_place_for_files_is_told_apart_from_one_that_is_down(server: Server) -> None:
    class Asking:
        tracking_uri = server.uri

        @at_border
        def record_release(self) -> None:
            from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

            repository = MlflowArtifactsRepository(f"mlflow-artifacts:/{'0' * 500}", tracking_uri=server.uri)
            repository.log_artifact(__file__)

    with pytest.raises(
        InfrastructureError,
        match=rf"^MLflow at {server.uri} answers, but the store of its files does not \(record release, "
        r"test_mlflow_outages\.py: too many 500 error responses\); check that its S3 is up",
    ):
        Asking().record_release()
