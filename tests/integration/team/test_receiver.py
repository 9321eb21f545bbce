"""From MLflow's registry to a run of Prefect: what is registered is asked for once, whatever is down meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from cryptography.fernet import Fernet
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from slipway.records import ReleaseRequest
from slipway.triggers.announcement import EVENTS
from slipway.triggers.decide import created_key
from tasks.events import ask_for_release
from tests.integration.conftest import Command, MlflowServer, Project
from tests.integration.prefect_server import Background, PrefectServer
from tests.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SECRET = "the webhook's secret of these tests"
WAIT_SECONDS = 180.0
QUIET_SECONDS = 8.0  # Prefect writes events down every 5 s
PARAMS = """
model: models:/{model}
data: {{test: data/test}}
targets: {{x86: {{engines: [onnxruntime]}}}}
"""


class RestartedPrefect(PrefectServer):
    """A Prefect server that can be killed and started again, on the same port and with the same database."""

    def __init__(self, root: Path) -> None:
        self._root = root
        super().__init__(root)
        self.url = self.environment["PREFECT_API_URL"]

    def start_again(self) -> None:
        """Start it, and wait until it answers."""
        port = self.url.removesuffix("/api").rpartition(":")[2]
        command = ["server", "start", "--host=127.0.0.1", f"--port={port}"]
        Background.__init__(self, command, self._root, self._root / "server.txt", self.environment)
        self.wait_for(self.is_up)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of that name which it holds."""
        found = self.ask("/events/filter", filter={"event": {"name": [name]}}, limit=50)["events"]
        assert isinstance(found, list)
        return found

    def runs(self) -> list[dict[str, Any]]:
        """The parameters of every run there is."""
        return [run["parameters"] for run in self.ask("/flow_runs/filter")]

    def automate(self) -> None:
        """Turn each request for a release into a run; no worker is there to begin it."""
        flow = self.ask("/flows/", name="release-version")["id"]
        schema = {"type": "object", "properties": {}}
        made = self.ask("/deployments/", name="release", flow_id=flow, parameter_openapi_schema=schema)
        names = ("model", "params", "reason")
        self.ask(
            "/automations/",
            name="releases",
            trigger={"type": "event", "posture": "Reactive", "expect": ["slipway.release.requested"], "threshold": 1},
            actions=[
                {
                    "type": "run-deployment",
                    "deployment_id": made["id"],
                    "parameters": {name: f"{{{{ event.payload.{name} }}}}" for name in names},
                }
            ],
        )


class Recorder(ThreadingHTTPServer):
    """Keeps what MLflow posts: headers and bodies, as they came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Recording)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/mlflow"


class _Recording(BaseHTTPRequestHandler):
    server: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Scene:
    """Both servers, a project that releases models, and a receiver of its own port."""

    def __init__(self, root: Path, mlflow: MlflowServer, prefect: RestartedPrefect) -> None:
        self.root, self.prefect, self.mlflow = root / "project", prefect, mlflow
        self.client = MlflowClient(mlflow.uri, mlflow.uri)
        (self.root / "params").mkdir(parents=True)
        self._hooks: list[str] = []
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def model(self, name: str, which: str) -> None:
        """A model that the project releases."""
        (self.root / "params" / f"{name}.yaml").write_text(PARAMS.format(model=f"{name}{which}"), encoding="utf-8")
        self.client.create_registered_model(name)

    def register(self, name: str) -> str:
        """Register a version through MLflow's own client."""
        return str(self.client.create_model_version(name, f"s3://models/{name}").version)

    def hook(self, url: str, secret: str = SECRET) -> str:
        """A webhook of MLflow's, which MLflow's cache knows of a second later."""
        made = self.client.create_webhook(f"hook-{len(self._hooks)}", url, list(EVENTS), secret=secret)
        self._hooks.append(made.webhook_id)
        time.sleep(1.5)
        return str(made.webhook_id)

    def unhook(self) -> None:
        """Take all webhooks away."""
        for one in self._hooks:
            self.client.delete_webhook(one)

    @contextmanager
    def receiver(self) -> Iterator[Command]:
        """A receiver that answers."""
        environment = {"SLIPWAY_WEBHOOK_SECRET": SECRET, "PREFECT_API_URL": self.prefect.url}
        with Project(self.root).start("receiver", "--port", str(self.port), **environment) as command:
            command.wait_for(self.answers)
            yield command

    def answers(self) -> bool:
        """Whether the receiver does."""
        with suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
            return True
        return False

    @property
    def health(self) -> dict[str, Any]:
        """What the receiver tells of itself."""
        found = httpx.get(f"{self.url}/health", timeout=30).json()
        assert isinstance(found, dict)
        return found

    def count(self, outcome: str) -> float:
        """The deliveries with that outcome."""
        start = f'slipway_webhook_deliveries_total{{outcome="{outcome}"}} '
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))

    def releases(self, name: str) -> list[dict[str, Any]]:
        """The events that ask for a release of this model."""
        events = self.prefect.events("slipway.release.requested")
        return [one for one in events if one["resource"]["prefect.resource.name"] == name]

    def runs(self, name: str) -> list[dict[str, Any]]:
        """The runs for this model."""
        return [one for one in self.prefect.runs() if one.get("model", "").startswith(f"models:/{name}/")]


def until(happened: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> float:
    """Wait until something is so; how long it took."""
    start = time.monotonic()
    while not happened():
        assert time.monotonic() - start < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that delivers to this host."""
    settings = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    }
    with mock.patch.dict(os.environ, settings):
        server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    with server:
        yield server


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestartedPrefect]:
    """A server that makes a run of each request."""
    with RestartedPrefect(tmp_path_factory.mktemp("prefect")) as server:
        server.automate()
        yield server


@pytest.fixture
def scene(tmp_path: Path, mlflow: MlflowServer, prefect: RestartedPrefect) -> Iterator[Scene]:
    """A project without models, and MLflow without webhooks."""
    scene = Scene(tmp_path, mlflow, prefect)
    yield scene
    scene.unhook()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Somebody who listens in."""
    with Recorder() as server:
        answering = threading.Thread(target=server.serve_forever, args=(0.01,))
        answering.start()
        yield server
        server.shutdown()
        answering.join()


def test_a_version_registered_is_released_once_though_told_of_many_times(scene: Scene, recorder: Recorder) -> None:
    scene.model("digits", "/1")
    with scene.receiver() as command:
        scene.hook(f"{scene.url}/mlflow")
        scene.hook(recorder.url)
        version = scene.register("digits")
        run_s = until(lambda: scene.runs("digits"), "a run")
        until(lambda: recorder.requests, "the recorded delivery")
        (headers, body), *_ = recorder.requests
        answers = [httpx.post(f"{scene.url}/mlflow", content=body, headers=headers, timeout=30) for _ in range(3)]
        until(lambda: scene.health["pending"] == 0, "nothing pending")
        time.sleep(QUIET_SECONDS)

        (event,) = scene.releases("digits")
        (run,) = scene.runs("digits")
        waited = [json.loads(line).get("waited_s") for line in command.stderr.splitlines()]
        command.send(signal.SIGTERM)
        assert command.ended() == 0
    sys.stdout.write(f"from registration to the run: {run_s:.2f} s; from delivery to event: {waited}\n")

    assert [answer.status_code for answer in answers] == [202, 200, 200]
    assert [answer.json()["outcome"] for answer in answers] == ["accepted", "seen already", "seen already"]
    assert run == {key: event["payload"][key] for key in ("model", "params", "reason")}
    assert (run["model"], run["params"]) == (f"models:/digits/{version}", "params/digits.yaml")
    assert run["reason"].startswith(f"model version {version} of digits was registered (webhook delivery ")
    assert "Traceback" not in command.stderr
    # A look at the registry finds the same version under the same key.
    source = scene.client.get_model_version("digits", version).source
    with temporary_settings({PREFECT_API_URL: scene.prefect.url}):
        again = ask_for_release(ReleaseRequest(**event["payload"]), created_key("digits", version, str(source)))
    assert str(again) == event["id"]


def test_mlflows_own_test_is_answered_and_starts_nothing(scene: Scene) -> None:
    scene.model("tested", "/1")
    with scene.receiver():
        hook = scene.hook(f"{scene.url}/mlflow")
        for event in EVENTS:
            result = scene.client.test_webhook(hook, event)
            assert (result.success, result.response_status) == (True, 200)
            assert json.loads(result.response_body or "") == {
                "outcome": "refused",
                "why": "no params file of this project describes releases of example_model; described: tested",
            }
        assert scene.health["pending"] == 0
    assert scene.releases("example_model") == []


def test_a_webhook_with_another_secret_starts_nothing(scene: Scene) -> None:
    scene.model("forged", "/1")
    with scene.receiver() as command:
        hook = scene.hook(f"{scene.url}/mlflow", secret="another secret")
        result = scene.client.test_webhook(hook)
        scene.register("forged")
        until(lambda: scene.count("wrong signature") == 2, "both deliveries, and no further attempt")
        time.sleep(QUIET_SECONDS)
        assert scene.count("wrong signature") == 2
        assert scene.health["pending"] == 0
    assert (result.success, result.response_status) == (False, 401)
    assert scene.releases("forged") == []
    assert SECRET not in command.stderr


def test_aliases_start_what_the_parameters_say(scene: Scene) -> None:
    """A candidate's alias a release, a challenger's a rollout; what a release itself registers, nothing."""
    scene.model("faces", "@candidate")
    scene.client.create_registered_model("faces.x86")
    with scene.receiver():
        scene.hook(f"{scene.url}/mlflow")
        version, engine = scene.register("faces"), scene.register("faces.x86")
        scene.client.set_registered_model_alias("faces.x86", "champion", engine)
        until(lambda: scene.count("refused") == 3, "three refusals")
        scene.client.set_registered_model_alias("faces", "candidate", version)
        scene.client.set_registered_model_alias("faces.x86", "challenger", engine)
        until(lambda: scene.count("accepted") == 2, "two deliveries")
        until(lambda: scene.health["pending"] == 0, "nothing pending")
    (release,) = scene.releases("faces")
    assert release["payload"]["model"] == f"models:/faces/{version}"
    (rollout,) = scene.prefect.events("slipway.rollout.requested")
    assert rollout["resource"]["prefect.resource.id"] == "slipway.engine.faces.x86"
    told = {key: rollout["payload"][key] for key in ("name", "target", "version", "params")}
    assert told == {"name": "faces", "target": "x86", "version": engine, "params": "params/faces.yaml"}


def test_while_prefect_and_then_the_receiver_are_down_nothing_is_lost_or_doubled(scene: Scene) -> None:
    scene.model("patient", "/1")
    with scene.receiver() as command:
        scene.hook(f"{scene.url}/mlflow")
        scene.prefect.kill()
        versions = [scene.register("patient") for _ in range(3)]
        until(lambda: scene.count("accepted") == 3, "three deliveries")
        until(lambda: scene.health["prefect"]["reachable"] is False, "it is noticed")
        assert scene.health["pending"] == 3
        command.send(signal.SIGKILL)
        command.ended()
    with scene.receiver() as command:
        assert scene.health["pending"] == 3
        scene.prefect.start_again()
        back_s = until(lambda: len(scene.runs("patient")) == 3, "three runs")
        until(lambda: scene.health["pending"] == 0, "nothing pending")
        time.sleep(QUIET_SECONDS)
    sys.stdout.write(f"from Prefect's return to the runs: {back_s:.1f} s\n")
    assert sorted(run["model"] for run in scene.runs("patient")) == [f"models:/patient/{one}" for one in versions]
    assert len(scene.releases("patient")) == 3


def test_an_event_is_one_also_for_a_server_that_forgot_its_id(scene: Scene) -> None:
    """Prefect's bus and triggers know an id for minutes, and not beyond a restart: who asks looks first."""
    request = ReleaseRequest(model="models:/known/1", params="params.yaml", reason="of a test")
    with temporary_settings({PREFECT_API_URL: scene.prefect.url}):
        ask_for_release(request, "known")
        until(lambda: scene.runs("known"), "a run")
        ask_for_release(request, "known")  # perhaps not written down yet: the bus knows it
        until(lambda: scene.releases("known"), "the event")
        scene.prefect.kill()
        scene.prefect.start_again()
        ask_for_release(request, "known")
        time.sleep(QUIET_SECONDS)
    assert (len(scene.runs("known")), len(scene.releases("known"))) == (1, 1)


def test_what_cannot_be_kept_is_brought_again_by_mlflow(scene: Scene) -> None:
    """As with a full disk: 503 and Retry-After make MLflow's three further attempts last half a minute."""
    scene.model("again", "/1")
    with scene.receiver():
        scene.hook(f"{scene.url}/mlflow")
        with closing(sqlite3.connect(scene.root / ".slipway" / "deliveries.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            scene.register("again")
            until(lambda: scene.count("not kept") == 1, "a refusal")
        until(lambda: scene.count("accepted") == 1, "another attempt")
        until(lambda: scene.health["pending"] == 0, "nothing pending")
    assert len(scene.releases("again")) == 1


def test_what_is_registered_while_no_receiver_runs_is_left_to_reconcile(scene: Scene) -> None:
    """MLflow tries four times within some 10 s, and then forgets it."""
    scene.model("missed", "/1")
    scene.hook(f"{scene.url}/mlflow")
    lost = scene.register("missed")
    until(lambda: f"Webhook request to {scene.url}/mlflow failed" in scene.mlflow.log, "MLflow has given up")
    with scene.receiver():
        assert scene.count("accepted") == 0
        assert scene.health["last_delivery"] is None
        scene.register("missed")
        until(lambda: scene.releases("missed"), "the next version's release")
    assert [one["payload"]["model"] for one in scene.releases("missed")] == [f"models:/missed/{int(lost) + 1}"]


def test_nothing_that_a_client_sends_ends_it(scene: Scene) -> None:
    head = b"POST /mlflow HTTP/1.1\r\nhost: x\r\n"
    unsigned = b"X-MLflow-Signature: v1,\xff\xfe\r\nX-MLflow-Timestamp: 1\r\nX-MLflow-Delivery-Id: a\r\n"
    sent = {
        "noise": os.urandom(2000),
        "a length beyond all bounds": head + b"content-length: 99999999999999999999999\r\n\r\n",
        "half a body": head + b"content-length: 100\r\n\r\nabc",
        "endless headers": head + b"a: b\r\n" * 100_000,
        "a body without an end": head
        + b"transfer-encoding: chunked\r\n\r\n"
        + (b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n") * 20,
        "a signature that is no text": head + unsigned + b"content-length: 0\r\n\r\n",
    }
    scene.model("sturdy", "/1")
    with scene.receiver() as command:
        for what, content in list(sent.items()) * 20:
            with socket.create_connection(("127.0.0.1", scene.port), timeout=10) as client, suppress(OSError):
                client.sendall(content)
                if what != "half a body":
                    client.recv(100)
        until(lambda: scene.count("wrong signature") == 20, "the last of each kind")
        until(lambda: scene.count("too large") > 0, "the bodies")
        assert scene.health["pending"] == 0
        command.send(signal.SIGTERM)
        assert command.ended() == 0
    assert "Traceback" not in command.stderr
    assert all(json.loads(line)["why"] for line in command.stderr.splitlines())


def test_an_event_that_prefect_took_and_lost_is_asked_for_again(scene: Scene) -> None:
    """Killed at once, a server without Redis has written nothing down; killed between run and event, it runs twice."""
    scene.model("taken", "/1")
    with scene.receiver() as command:
        scene.hook(f"{scene.url}/mlflow")
        scene.register("taken")
        command.wait_for(lambda: '"asked Prefect"' in command.stderr)
        scene.prefect.kill()
        scene.prefect.start_again()
        back_s = until(lambda: scene.health["pending"] == 0, "nothing pending", 120)
        until(lambda: scene.runs("taken"), "a run")
        time.sleep(QUIET_SECONDS)
    sys.stdout.write(f"{len(scene.runs('taken'))} runs, {back_s:.1f} s after Prefect's return\n")
    assert len(scene.releases("taken")) == 1
    assert len(scene.runs("taken")) <= 2
