"""What of the team's servers needs none of them: their order, their names, what they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.stack import SERVICES, Stack, postgres, redis_server
from infra.stack.environment import as_exports, for_people
from infra.stack.keys import MADE, kept_keys
from infra.stack.layout import PORTS, Layout
from infra.stack.services import Service
from infra.stack.settings import Settings
from infra.stack.stack import closure, waves
from slipway.errors import BadInputError

NEEDS = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ()}


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever this host has: none of them is run here."""
    monkeypatch.setattr(postgres, "programs", lambda data: Path("postgresql"))
    monkeypatch.setattr(redis_server, "program", lambda: "redis-server")


def recipes(stack: Stack) -> dict[str, Any]:
    return {service.name: service.recipe for service in stack.services}


def test_what_a_service_needs_comes_with_it() -> None:
    assert closure(["c"], NEEDS) == ("a", "b", "c")
    assert closure(["d"], NEEDS) == ("d",)
    assert closure([], NEEDS) == ()


def test_services_start_at_once_where_none_needs_the_other() -> None:
    assert waves(NEEDS) == [["a", "d"], ["b"], ["c"]]
    assert waves({"c": ("a", "b")}) == [["c"]]
    with pytest.raises(ValueError, match="a, b"):
        waves({"a": ("b",), "b": ("a",)})


def test_a_worker_brings_no_mlflow(tmp_path: Path) -> None:
    stack = Stack(tmp_path, only=["worker", "prefect-services"])
    assert [service.name for service in stack.services] == [
        "postgres",
        "redis",
        "prefect-api",
        "prefect-services",
        "worker",
    ]
    assert "MLFLOW_TRACKING_URI" not in stack.environment
    with pytest.raises(BadInputError, match="'mlflow' is none of this stack's: postgres, redis"):
        stack.service("mlflow")


def test_a_wrong_name_tells_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no service 'mlfow', did you mean 'mlflow'\?: postgres, .*worker"):
        Stack(tmp_path, only=["mlfow"])
    with pytest.raises(BadInputError, match="no service 'wroker'"):
        Stack(tmp_path, extra={"wroker": {}})
    with pytest.raises(BadInputError, match=r"nothing listens as 'prefect', .*prefect-api"):
        Stack(tmp_path, {"prefect": 4200})


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_a_port_is_a_number_of_a_port(tmp_path: Path, port: int) -> None:
    with pytest.raises(BadInputError, match=f"port {port} of mlflow is none: give a number from 1 to 65535"):
        Stack(tmp_path, {"mlflow": port})


def test_two_listeners_never_share_a_port(tmp_path: Path) -> None:
    assert len(set(PORTS.values())) == len(PORTS)
    with pytest.raises(BadInputError, match="port 5000 is asked for by mlflow and by receiver; give each its own"):
        Stack(tmp_path, {"receiver": 5000})


def test_a_chosen_port_is_kept_for_the_next_command(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    layout.keep_ports(layout.ports({"mlflow": 5001}))
    assert layout.ports(None) == PORTS | {"mlflow": 5001}
    assert layout.ports({"mlflow": 5002})["mlflow"] == 5002


def test_a_damaged_file_of_ports_is_told(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    for text in ("{", "[]", '{"mlflow": "x"}', '{"mlflow": null}'):
        (layout.folder / "ports.json").write_text(text)
        with pytest.raises(BadInputError, match=r"ports\.json.*; put it right, or remove it"):
            layout.ports(None)


def test_keys_are_made_once_and_are_private(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = kept_keys(path)
    assert keys.keys() == MADE.keys()
    assert len(set(keys.values())) == len(keys)
    assert all(len(value) >= 20 for value in keys.values())
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_keys(path) == keys
    assert kept_keys(tmp_path / "others.json")["redis"] != keys["redis"]


def test_no_service_shows_a_secret_in_its_command(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    keys = kept_keys(tmp_path / ".slipway" / "stack" / "keys.json")
    for name, recipe in recipes(stack).items():
        shown = " ".join(recipe.command())
        assert not [key for key, secret in keys.items() if secret in shown], name


def test_every_service_listens_on_this_host_alone_and_reports_to_nobody(tmp_path: Path) -> None:
    for name, recipe in recipes(Stack(tmp_path)).items():
        told = recipe.environment
        assert told["DO_NOT_TRACK"] == "true", name
        assert told["MLFLOW_DISABLE_TELEMETRY"] == "true", name
        assert told["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false", name
        assert "0.0.0.0" not in " ".join(recipe.command()), name
    assert "-master.telemetry=false" in recipes(Stack(tmp_path))["seaweedfs"].command()


def test_the_shell_s_own_servers_are_not_those_of_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {
        "MLFLOW_TRACKING_URI": "http://elsewhere",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite://",
        "AWS_PROFILE": "other",
        "PGHOST": "elsewhere",
        "SLIPWAY_WEBHOOK_SECRET": "other",
    }
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LANG", "C.UTF-8")
    for service, recipe in recipes(Stack(tmp_path)).items():
        assert recipe.environment["LANG"] == "C.UTF-8"
        assert not elsewhere.items() & recipe.environment.items(), service


def test_a_test_may_add_to_the_environment_of_one_service(tmp_path: Path) -> None:
    stack = Stack(tmp_path, extra={"worker": {"PREFECT_WORKER_QUERY_SECONDS": "1"}})
    assert recipes(stack)["worker"].environment["PREFECT_WORKER_QUERY_SECONDS"] == "1"
    assert "PREFECT_WORKER_QUERY_SECONDS" not in recipes(stack)["receiver"].environment


def test_prefect_keeps_nothing_in_memory_alone(tmp_path: Path) -> None:
    """Of two processes each would keep its own, and a restart would lose it."""
    for name in ("prefect-api", "prefect-services"):
        told = recipes(Stack(tmp_path))[name].environment
        modules = {key: value for key, value in told.items() if value.startswith("prefect_redis.")}
        assert len(modules) == 5, name
        redis_urls = {key for key, value in told.items() if value.startswith("redis://")}
        assert redis_urls == {
            "PREFECT_REDIS_MESSAGING_URL",
            "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL",
            "PREFECT_SERVER_DOCKET_URL",
        }
        assert told["PREFECT_SERVER_DATABASE_CONNECTION_URL"].startswith("postgresql+asyncpg://prefect:")


def test_prefect_asks_everybody_for_one_string_and_all_who_ask_it_have_that(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    told = {name: recipe.environment for name, recipe in recipes(stack).items()}
    servers = {name for name, own in told.items() if "PREFECT_SERVER_API_AUTH_STRING" in own}
    clients = {name for name, own in told.items() if "PREFECT_API_AUTH_STRING" in own}
    assert (servers, clients) == ({"prefect-api", "prefect-services"}, {"receiver", "worker"})
    (asked,) = {told[name]["PREFECT_SERVER_API_AUTH_STRING"] for name in servers}
    (shown,) = {told[name]["PREFECT_API_AUTH_STRING"] for name in clients}
    assert asked == shown == stack.environment["PREFECT_API_AUTH_STRING"]
    name, _, password = asked.partition(":")
    assert (name, len(password) >= 20) == ("slipway", True)


def test_seaweedfs_is_told_every_port_of_its_own(tmp_path: Path) -> None:
    command = recipes(Stack(tmp_path))["seaweedfs"].command()
    chosen = {word for word in command if ".port" in word and not word.endswith("=0")}
    assert chosen == {
        "-s3.port=8333",
        "-s3.port.grpc=18333",
        "-master.port=9333",
        "-master.port.grpc=19333",
        "-volume.port=9340",
        "-volume.port.grpc=19340",
        "-filer.port=9888",
        "-filer.port.grpc=19888",
    }


def test_the_environment_leads_to_the_services_wanted_and_no_others(tmp_path: Path) -> None:
    settings = Settings(Layout(tmp_path), PORTS, kept_keys(tmp_path / "keys.json"), {})
    everything = for_people(settings, SERVICES)
    assert everything.keys() == {
        "PREFECT_API_URL",
        "PREFECT_API_AUTH_STRING",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
        "MLFLOW_S3_ENDPOINT_URL",
        "SLIPWAY_ROLLOUTS_URL",
        "SLIPWAY_BUCKET",
        "SLIPWAY_WEBHOOK_URL",
        "SLIPWAY_WEBHOOK_SECRET",
    }
    assert for_people(settings, ["prefect-api"]) == {
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "PREFECT_API_AUTH_STRING": f"slipway:{settings.keys['prefect-api']}",
    }
    assert everything["SLIPWAY_WEBHOOK_URL"] == "http://127.0.0.1:8123/mlflow"


def test_what_is_sourced_is_quoted_for_the_shell() -> None:
    assert as_exports({"A": "plain", "B": "two 'words'"}) == "export A=plain\nexport B='two '\"'\"'words'\"'\"''\n"


def test_to_start_one_more_does_not_hide_those_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "running", property(lambda service: service.name == "prefect-api"))
    monkeypatch.setattr(Service, "start", lambda _: None)
    stack = Stack(tmp_path, only=["seaweedfs"])
    stack.up()

    told = stack.environment_file.read_text(encoding="utf-8")
    assert [name in told for name in ("AWS_ENDPOINT_URL", "PREFECT_API_URL", "MLFLOW_TRACKING_URI")] == [
        True,
        True,
        False,
    ]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / ".slipway").write_text("in the way")
    with pytest.raises(BadInputError, match=r"cannot make .*\.slipway.*; work in a directory that can be written to"):
        Stack(tmp_path)
