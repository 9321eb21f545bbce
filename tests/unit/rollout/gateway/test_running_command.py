from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from slipway.cli import gateway as command
from slipway.config import CanaryParams
from slipway.records.rollout import Contender, Phase, Rollout
from slipway.stores.objects import ObjectStore
from slipway.wiring import Workshop
from tests.fakes.registry import FakeRegistry
from tests.fakes.splitter import FakeSplitter
from tests.unit.rollout.gateway.test_running import gateway
from tests.unit.steps.registered import register_engine


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.delenv("SLIPWAY_ROLLOUTS_URL", raising=False)
    registry: Any = FakeRegistry()
    return Workshop(root=tmp_path, objects=ObjectStore(tmp_path / "objects"), registry=registry)


def test_a_challenger_is_there_while_a_version_bears_the_alias(shop: Workshop, tmp_path: Path) -> None:
    assert not command._has_challenger(shop.registry, "digits.x86")
    register_engine(shop.registry, tmp_path, "digits.x86")  # type: ignore[arg-type]
    assert not command._has_challenger(shop.registry, "digits.x86")
    shop.registry.set_challenger("digits.x86", "1")
    assert command._has_challenger(shop.registry, "digits.x86")


def test_a_silent_controller_is_told_once_and_its_traffic_returned_as_long_as_it_is_silent(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splitter, told = FakeSplitter(), []
    monkeypatch.setattr(command, "EnvoySplitter", lambda _: splitter)
    monkeypatch.setattr(command, "tell", told.append)
    look = command._dead_man(shop, gateway(tmp_path))
    splitter.set_share(25)
    look()
    assert splitter.share() == 25

    contender, policy = Contender(version="1", digest="a" * 64), CanaryParams(dead_man_seconds=0.01)
    shop.rollouts.save(
        Rollout(
            rollout_id="r1",
            name="digits.x86",
            champion=contender,
            challenger=contender,
            policy_json=policy.model_dump_json(),
            phase=Phase.PROGRESSING,
            started_s=0,
            phase_since_s=0,
        )
    )
    time.sleep(0.05)
    look()
    look()
    assert splitter.share() == 0
    splitter.set_share(25)  # by a process that nobody asked
    look()
    assert splitter.share() == 0
    assert len(told) == 1


def test_a_server_is_started_as_a_person_would_start_it(tmp_path: Path) -> None:
    argv = command.serve_command("digits", "x86")("challenger", 20_001, tmp_path / "challenger.log")
    assert argv[1:] == [
        *("-m", "slipway.cli", "serve", "digits", "--target", "x86", "--alias", "challenger"),
        *("--port", "20001", "--access-log", str(tmp_path / "challenger.log")),
    ]
