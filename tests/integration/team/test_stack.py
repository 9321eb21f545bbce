"""The team's servers as they are started without Docker: what answers, what lasts, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import psycopg
import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from infra.stack import SERVICES, Stack
from infra.stack.layout import PORTS
from infra.stack.processes import MARK
from slipway.errors import BadInputError, InfrastructureError
from tasks.prefect_api import NotLetInError, prefect
from tests.e2e.project import write_params
from tests.integration.team.conftest import StartStack
from tests.ports import free_port, free_ports

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]
WAIT_SECONDS = 300.0
OF_WORKERS = ("work_pools/slipway/workers/connect", "task_runs/subscriptions/scheduled")
STREAMS = ("events/in", "events/out", "logs/out", *OF_WORKERS)
FLOW = """\
from prefect import flow


@flow(name="hello")
def hello(name: str) -> None:
    with open(f"{name}.txt", "w") as stream:
        stream.write("done")
"""


@pytest.fixture(scope="module")
def stack(start_stack: StartStack, team_project: Path) -> Stack:
    """All servers, from nothing."""
    return start_stack(team_project)


@pytest.fixture
def api(stack: Stack) -> Iterator[httpx.Client]:
    """Prefect's API, as its clients ask it."""
    told = stack.environment
    who = httpx.BasicAuth(*told["PREFECT_API_AUTH_STRING"].split(":", 1))
    with httpx.Client(base_url=told["PREFECT_API_URL"], auth=who, timeout=30) as client:
        yield client


@pytest.fixture
def s3(stack: Stack) -> Iterator[Any]:
    """The objects, as people and workers reach them."""
    told = stack.environment
    client = boto3.client(
        "s3",
        endpoint_url=told["AWS_ENDPOINT_URL"],
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name=told["AWS_DEFAULT_REGION"],
    )
    with contextlib.closing(client):
        yield client


@pytest.fixture
def mlflow(stack: Stack) -> Iterator[httpx.Client]:
    """MLflow's own API, as its administrator."""
    admin = stack.admin_environment
    who = (admin["MLFLOW_ADMIN_USERNAME"], admin["MLFLOW_ADMIN_PASSWORD"])
    with httpx.Client(base_url=stack.environment["MLFLOW_TRACKING_URI"], auth=who, timeout=60) as client:
        yield client


@pytest.fixture
def messages(stack: Stack, team_project: Path) -> Iterator[redis.Redis]:
    """What Prefect's servers send each other."""
    password = json.loads((team_project / ".slipway" / "stack" / "keys.json").read_text())["redis"]
    with redis.Redis(port=stack.ports["redis"], password=password) as client:
        yield client


def wait_for(happened: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.3)
    return found


def got(response: httpx.Response) -> Any:
    assert response.is_success, response.text
    return response.json()


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.stack", *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def test_all_of_it_answers_and_its_secrets_are_private(stack: Stack, team_project: Path) -> None:
    assert {row["service"]: row["state"] for row in stack.status()} == dict.fromkeys(SERVICES, "answers")
    folder = team_project / ".slipway" / "stack"
    secret = ("environment", "admin", "keys.json", "config/redis.conf", "config/s3.json", "config/mlflow-users.ini")
    assert {name: oct((folder / name).stat().st_mode & 0o777) for name in secret} == dict.fromkeys(secret, "0o600")
    assert folder.stat().st_mode & 0o077 == 0

    sourced = subprocess.run(
        ["bash", "-c", f". {folder / 'environment'} && env -0"], capture_output=True, text=True, check=True, env={}
    ).stdout
    found = dict(line.split("=", 1) for line in sourced.split("\0") if line)
    assert stack.environment.items() <= found.items()

    # Nobody else on the host reads a password in the list of processes.
    secrets = json.loads((folder / "keys.json").read_text())
    shown = " ".join(" ".join(process.cmdline()) for service in stack.services for process in service.processes())
    assert "--port" in shown
    assert not [name for name, secret in secrets.items() if secret in shown]


def test_nobody_gets_in_without_a_password(stack: Stack) -> None:
    told = stack.environment
    assert httpx.get(f"{told['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search").status_code == 401
    assert httpx.get(f"{told['AWS_ENDPOINT_URL']}/").status_code == 403
    with redis.Redis(port=stack.ports["redis"]) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://slipway:wrong@127.0.0.1:{stack.ports['postgres']}/slipway")
    # Who keeps the rollouts may not read the runs.
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(told["SLIPWAY_ROLLOUTS_URL"].rpartition("/")[0] + "/mlflow")


def test_prefect_answers_nobody_without_its_string(stack: Stack, api: httpx.Client) -> None:
    url = stack.environment["PREFECT_API_URL"]
    flow = {"name": "stranger"}
    for who in (None, ("slipway", ""), ("slipway", "wrong"), ("admin", "pass")):
        for path in ("/flows/", "/flows/filter", "/automations/", "/csrf-token", "/health", "/no-such-path"):
            assert httpx.post(f"{url}{path}", json=flow, auth=who).status_code == 401, path
        for path in ("/admin/version", "/admin/settings", "/docs", "/openapi.json"):
            assert httpx.get(f"{url}{path}", auth=who).status_code == 401, path
    assert httpx.get(f"{url}/health").json() is True, "as probes ask it"
    assert got(api.post("/flows/filter", json={"flows": {"name": {"any_": ["stranger"]}}})) == []
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(NotLetInError), prefect() as stranger:
        stranger.read_flows()


@pytest.mark.parametrize("path", STREAMS)
def test_what_prefect_streams_is_for_nobody_without_its_string(stack: Stack, path: str) -> None:
    """Events in particular: one of them starts a release."""
    url = f"{stack.environment['PREFECT_API_URL'].replace('http', 'ws', 1)}/{path}"
    with pytest.raises(InvalidStatus, match="403"):
        connect(url)
    for token in (None, "slipway:wrong"):
        with connect(url, subprotocols=[Subprotocol("prefect")]) as stranger:
            stranger.send(json.dumps({"type": "auth", "token": token}))
            with pytest.raises(ConnectionClosed) as ended:
                stranger.recv(timeout=WAIT_SECONDS)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == CloseCode.POLICY_VIOLATION
    with connect(url, subprotocols=[Subprotocol("prefect")]) as known:
        known.send(json.dumps({"type": "auth", "token": stack.environment["PREFECT_API_AUTH_STRING"]}))
        assert json.loads(known.recv(timeout=WAIT_SECONDS))["type"] == "auth_success"


@pytest.mark.parametrize(
    ("string", "told"),
    [("", "asks who you are; set"), ("slipway:wrong", "does not accept this PREFECT_API_AUTH_STRING; set it")],
    ids=["none", "wrong"],
)
@pytest.mark.parametrize("words", [("-m", "infra.setup"), ("-m", "slipway.cli", "receiver", "--port=0")], ids=" ".join)
def test_who_has_not_prefects_string_is_told_what_to_set(
    stack: Stack, tmp_path: Path, words: tuple[str, ...], string: str, told: str
) -> None:
    write_params(tmp_path)
    shutil.copy2(REPOSITORY / "prefect.yaml", tmp_path)
    known = {name: stack.environment[name] for name in ("PREFECT_API_URL", "SLIPWAY_WEBHOOK_SECRET")}
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env={**os.environ, **known, "PREFECT_API_AUTH_STRING": string, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    server = stack.environment["PREFECT_API_URL"].removesuffix("/api")
    assert ended.stderr.count(f"Prefect at {server} {told}") == 1, ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_page_of_another_site_gets_nowhere(stack: Stack, api: httpx.Client) -> None:
    """In a browser of this host it may open any local port; what it may neither read nor send as JSON is no use.

    A browser asks whether it may before it shows the string.
    """
    words = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    own = f"http://localhost:{stack.ports['prefect-api']}"
    for origin, allowed in (("http://elsewhere.example", None), (own, own)):
        answer = httpx.options(f"{stack.environment['PREFECT_API_URL']}/flows/", headers={"Origin": origin, **words})
        assert answer.headers.get("access-control-allow-origin") == allowed
    assert api.post("/flows/", content=b'{"name": "x"}', headers={"Content-Type": "text/plain"}).status_code == 422


def test_seaweedfs_asks_on_its_other_ports_too(stack: Stack, s3: Any) -> None:
    bucket = "asks"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="kept", Body=b"kept")
    folder = f"http://127.0.0.1:{stack.ports['seaweedfs-filer']}/buckets/{bucket}"
    for method, name in (("GET", "kept"), ("PUT", "kept"), ("POST", "other"), ("DELETE", "kept")):
        assert httpx.request(method, f"{folder}/{name}", content=b"forged", timeout=30).status_code == 401
    assert s3.get_object(Bucket=bucket, Key="kept")["Body"].read() == b"kept"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_an_artifact_goes_through_mlflow_into_its_bucket(mlflow: httpx.Client, s3: Any) -> None:
    run = got(mlflow.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}))["run"]["info"]
    assert run["artifact_uri"].startswith("mlflow-artifacts:/")
    path = f"0/{run['run_id']}/artifacts/told.txt"
    assert mlflow.put(f"/api/2.0/mlflow-artifacts/artifacts/{path}", content=b"what was told").is_success
    assert s3.get_object(Bucket="mlflow", Key=path)["Body"].read() == b"what was told"


def deploy(api: httpx.Client, root: Path) -> str:
    (root / "hello.py").write_text(FLOW)
    flow = got(api.post("/flows/", json={"name": "hello"}))["id"]
    place = {"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}
    deployment = {"name": "here", "flow_id": flow, "entrypoint": "hello.py:hello", "pull_steps": [place]}
    return str(got(api.post("/deployments/", json={**deployment, "work_pool_name": "slipway"}))["id"])


def run_hello(api: httpx.Client, deployment: str, root: Path, name: str) -> None:
    asked = {"state": {"type": "SCHEDULED"}, "parameters": {"name": name}}
    run = got(api.post(f"/deployments/{deployment}/create_flow_run", json=asked))["id"]
    wait_for(lambda: got(api.get(f"/flow_runs/{run}"))["state_type"] in ("COMPLETED", "FAILED", "CRASHED"))
    assert got(api.get(f"/flow_runs/{run}"))["state_type"] == "COMPLETED"
    assert (root / f"{name}.txt").read_text() == "done"


def test_each_can_be_restarted_and_keeps_what_it_kept(
    stack: Stack, api: httpx.Client, mlflow: httpx.Client, s3: Any, messages: redis.Redis, team_project: Path
) -> None:
    """And those that use it go on: Prefect and MLflow survive their database, and runs are taken up as before."""
    deployment = deploy(api, team_project)
    run_hello(api, deployment, team_project, "before")
    experiment = got(mlflow.post("/api/2.0/mlflow/experiments/create", json={"name": "kept"}))["experiment_id"]
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="object", Body=b"kept")
    messages.set("kept", "so")

    for service in stack.services:
        pid = service.pid
        (service.kill if service.name != "mlflow" else service.stop)()
        assert not service.running
        assert not service.processes()
        service.start()
        assert service.pid not in (None, pid)

    assert {row["state"] for row in stack.status()} == {"answers"}
    assert messages.get("kept") == b"so"
    assert s3.get_object(Bucket="kept", Key="object")["Body"].read() == b"kept"
    found = got(mlflow.get("/api/2.0/mlflow/experiments/get", params={"experiment_id": experiment}))
    assert found["experiment"]["name"] == "kept"
    run_hello(api, deployment, team_project, "after")


def test_those_that_use_postgresql_and_redis_go_on_when_these_were_restarted(
    stack: Stack, api: httpx.Client, mlflow: httpx.Client
) -> None:
    others = {name: stack.service(name).pid for name in ("prefect-api", "prefect-services", "mlflow", "worker")}
    database, messenger = stack.service("postgres"), stack.service("redis")
    database.stop()
    assert not api.get("/admin/version").is_error  # needs no table
    assert api.post("/flows/count", json={}).is_error
    database.start()
    wait_for(lambda: api.post("/flows/count", json={}).is_success)
    wait_for(lambda: mlflow.get("/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}).is_success)

    messenger.kill()
    assert not stack.service("prefect-services").answers
    messenger.start()
    wait_for(lambda: {row["state"] for row in stack.status()} == {"answers"})
    assert {name: stack.service(name).pid for name in others} == others


def test_what_a_killed_first_process_leaves_behind_is_cleared_away(stack: Stack) -> None:
    service = stack.service("mlflow")
    assert service.pid is not None
    psutil.Process(service.pid).kill()
    wait_for(lambda: not service.running)
    left = service.processes()
    assert left, "uvicorn's process holds the port on"

    service.start()

    assert service.answers
    assert not left & service.processes()


def test_up_twice_and_down_leave_no_process(tmp_path: Path) -> None:
    ports = [word for name, port in free_ports(PORTS).items() for word in ("--port", f"{name}={port}")]
    try:
        first = command(tmp_path, "up", "--only", "redis", "--only", "postgres", "--json", *ports)
        assert first.returncode == 0, first.stderr
        second = command(tmp_path, "up", "--only", "redis", "--only", "postgres")
        assert (second.returncode, "redis: there already" in second.stderr) == (0, True), second.stderr
        moved = command(tmp_path, "up", "--only", "redis", "--port", f"redis={free_port()}")
        assert (moved.returncode, "redis runs on other ports than those asked for" in moved.stderr) == (2, True)
        told = command(tmp_path, "status", "--json")
        rows = {row["service"]: row for row in json.loads(told.stdout)["services"]}
        assert {name: row["state"] for name, row in rows.items() if row["state"] != "down"} == {
            "postgres": "answers",
            "redis": "answers",
        }
        before = {row["service"]: row["pid"] for row in json.loads(first.stdout)["services"]}
        assert {name: rows[name]["pid"] for name in before} == before
        assert "answers" in command(tmp_path, "status").stdout
        processes = [*Stack(tmp_path).service("postgres").processes(), *Stack(tmp_path).service("redis").processes()]
        assert len(processes) > 2
    finally:
        down = command(tmp_path, "down", "--json")

    assert (down.returncode, json.loads(down.stdout)) == (0, {"ended": ["postgres", "redis"]})
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not _marked(tmp_path)
    assert json.loads(command(tmp_path, "down", "--json").stdout) == {"ended": []}


def _marked(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(root)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_port_that_is_taken_is_told_with_its_option(tmp_path: Path) -> None:
    ports = free_ports(PORTS)
    with socket.create_server(("127.0.0.1", ports["redis"])):
        chosen = [word for name, port in ports.items() for word in ("--port", f"{name}={port}")]
        ended = command(tmp_path, "up", "--only", "redis", *chosen)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    told = " ".join(ended.stderr.split())
    assert f"port {ports['redis']}, where redis would listen, is taken by process {os.getpid()}" in told
    assert "python -m infra.stack up --port redis=NUMBER" in told


def test_a_server_that_ends_at_once_tells_why(tmp_path: Path) -> None:
    with Stack(tmp_path, free_ports(PORTS), only=["redis"]) as running:
        service = running.service("redis")
        service.stop()
        (tmp_path / ".slipway" / "stack" / "data" / "redis" / "appendonly.aof").write_text("no such command\n" * 9)
        with pytest.raises(
            InfrastructureError, match=r"redis ended with 1; its log .*redis.txt ends:(.|\n)*Bad file format"
        ):
            service.start()
        assert not service.running


def test_a_failed_start_leaves_no_process(tmp_path: Path) -> None:
    ports = free_ports(PORTS)
    with (
        socket.create_server(("127.0.0.1", ports["postgres"])),
        pytest.raises(BadInputError, match="postgres would listen"),
        Stack(tmp_path, ports, only=["redis", "postgres"]),
    ):
        pytest.fail("it has started")
    assert not _marked(tmp_path)
