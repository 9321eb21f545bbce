from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from slipway.cli import host
from slipway.engines import ENGINES
from slipway.engines.base import Availability
from slipway.stores.tracking import track
from slipway.wiring import host_hardware
from tests.fakes.evidence import HARDWARE
from tests.fakes.registry import FakeRegistry
from tests.unit.cli.conftest import Slipway
from tests.unit.steps.material import images, write_data
from tests.unit.steps.registered import register_engine

PARAMS = "model: models:/digits/1\ndata: {test: data/test}\ntargets: {x86: {engines: [torch]}}\n"


def test_targets_tells_the_host_and_every_engine(slipway: Slipway, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Availability(engine="openvino", available=False, version=None, reason="not [installed]", extra="openvino")
    there = Availability(engine="torch", available=True, version="2.13.0", reason=None, extra=None)
    monkeypatch.setattr(host, "availabilities", lambda: (there, missing))
    monkeypatch.setattr(host, "host_hardware", lambda: HARDWARE)

    ended = slipway("targets")

    assert ended.code == 0
    lines = ended.stdout.splitlines()
    assert lines[:3] == [
        "cpu, 2 cores, 0 GiB, x86_64",
        "instructions: avx2; GPU: none",
        f"fingerprint {'f' * 12}",
    ]
    assert any(line.split("│")[1:4] == [" torch    ", " yes       ", " 2.13.0  "] for line in lines)
    assert any("openvino" in line and " no " in line and "not [installed]" in line for line in lines)


def test_targets_as_json(slipway: Slipway) -> None:
    printed = slipway("targets", "--json").object

    assert printed["hardware"] == host_hardware().model_dump(mode="json")
    assert [one["engine"] for one in printed["engines"]] == list(ENGINES)
    assert all(one["available"] for one in printed["engines"])


@pytest.fixture
def _sound(registry: FakeRegistry, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with parameters, tracked data, a champion made here, and disk enough."""
    from dvc.repo import Repo

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**40))
    Repo.init(str(project), no_scm=True).close()
    write_data(project / "data" / "test", images(2), np.zeros(2, np.int64))
    track(project / "data" / "test")
    (project / "params.yaml").write_text(PARAMS)
    register_engine(registry, project, "digits.x86", hardware=host_hardware())
    registry.promote("digits.x86", "1", None, None)


@pytest.mark.usefixtures("_sound")
def test_a_sound_set_up_costs_nothing(slipway: Slipway) -> None:
    ended = slipway("doctor", "--json")

    assert ended.code == 0
    checks = {check["name"]: check["decision"] for check in ended.object["checks"]}
    assert list(checks) == ["versions", "disk", "engines", "registry", "data data/test", "champion digits.x86"]
    assert {decision["verdict"] for decision in checks.values()} == {"PASS"}


@pytest.mark.usefixtures("_sound")
def test_what_is_not_sound_is_told_and_costs_five(slipway: Slipway, project: Path) -> None:
    (project / "data" / "test" / "shard-00000.npz").unlink()

    ended = slipway("doctor")

    assert ended.code == 5
    (line,) = [line for line in ended.stdout.splitlines() if "data data/test" in line]
    assert "FAIL" in line


@pytest.mark.usefixtures("_sound")
def test_a_stale_champion_is_told(slipway: Slipway, registry: FakeRegistry, project: Path) -> None:
    version = register_engine(registry, project, "digits.x86", b"elsewhere").version
    registry.promote("digits.x86", version, None, None)

    ended = slipway("doctor", "--json")

    assert ended.code == 5
    (champion,) = [check for check in ended.object["checks"] if check["name"] == "champion digits.x86"]
    assert champion["decision"]["reasons"][0].startswith("version 2 is stale")
