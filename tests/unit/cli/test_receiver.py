from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipway.cli import receiver
from tests.unit.cli.conftest import Slipway


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the flow was started with."""
    found: list[tuple[Any, ...]] = []

    def load_flow(name: str) -> Callable[..., None]:
        assert name == "receiver"

        def serve(*arguments: Any) -> None:
            *place, opened = arguments
            found.append(tuple(place))
            opened("http://127.0.0.1:8123/mlflow")

        return serve

    monkeypatch.setattr(receiver, "load_flow", load_flow)
    return found


def test_it_serves_where_it_is_told_to(
    slipway: Slipway, served: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_WEBHOOK_SECRET", "a secret")
    ended = slipway("receiver")
    assert (ended.code, ended.stdout) == (0, "")
    assert slipway("receiver", "--host", "0.0.0.0", "--port", 9000, "--window-s", 60).code == 0
    assert served == [("127.0.0.1", 8123, 300.0), ("0.0.0.0", 9000, 60.0)]


def test_without_a_secret_it_does_not_start(
    slipway: Slipway, served: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLIPWAY_WEBHOOK_SECRET", raising=False)
    ended = slipway("receiver")
    assert (ended.code, served) == (2, [])
    assert ended.stderr.startswith("slipway: SLIPWAY_WEBHOOK_SECRET is not set, ")


def test_it_tells_its_url_as_json(
    slipway: Slipway, served: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_WEBHOOK_SECRET", "a secret")
    assert json.loads(slipway("receiver", "--json").stdout) == {"url": "http://127.0.0.1:8123/mlflow"}


@pytest.mark.parametrize("seconds", ["nan", "inf", "0"])
def test_a_window_without_an_end_is_refused(
    seconds: str, slipway: Slipway, served: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_WEBHOOK_SECRET", "a secret")
    assert (slipway("receiver", "--window-s", seconds).code, served) == (2, [])


def test_without_prefects_server_it_does_not_start(
    slipway: Slipway, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_WEBHOOK_SECRET", "a secret")
    ended = slipway("receiver")
    assert ended.code == 2
    assert "PREFECT_API_URL is not set; set it to http://HOST:PORT/api of Prefect's server" in ended.stderr
    assert not (project / ".slipway" / "deliveries.db").exists()


def test_an_address_that_is_none_is_told_at_once(slipway: Slipway, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("SLIPWAY_WEBHOOK_SECRET", "a secret")
    with temporary_settings({PREFECT_API_URL: "prefect:4200/api"}):
        ended = slipway("receiver")

    assert ended.code == 2
    assert "PREFECT_API_URL is 'prefect:4200/api', which is no address of a server" in ended.stderr
