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
    elsewhere = Availability(
        engine="tensorrt-rtx", available=True, version="1.7.1", reason="it wants an RTX GPU", extra="rtx", runs=False
    )
    lacking = missing.model_copy(update={"engine": "tensorrt", "reason": "pip install it all", "extra": "tensorrt"})
    monkeypatch.setattr(host, "availabilities", lambda: (there, missing, elsewhere, lacking))
    caches = {"L1d": 48 * 1024, "L3": 2**25}
    described = HARDWARE.model_copy(
        update={"gpu": "L4", "compute_capability": "8.9", "driver": "580", "caches": caches}
    )
    monkeypatch.setattr(host, "host_hardware", lambda: described)

    ended = slipway("targets")

    assert ended.code == 0
    lines = ended.stdout.splitlines()
    assert lines[:4] == [
        "cpu, 2 cores, 0 GiB, x86_64",
        "instructions: avx2",
        "caches: L1d 48 KiB, L3 32768 KiB; GPU: L4, compute capability 8.9, driver 580",
        f"fingerprint {'f' * 12}",
    ]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows == [
        ["torch", "yes", "2.13.0", ""],
        ["openvino", "no", "", "not [installed]; pip install 'slipway[openvino]'"],
        ["tensorrt-rtx", "builds only", "1.7.1", "it wants an RTX GPU"],
        ["tensorrt", "no", "", "pip install it all"],
    ]


def test_a_host_without_gpu_or_known_caches_is_told_as_such(slipway: Slipway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "host_hardware", lambda: HARDWARE)

    assert slipway("targets").stdout.splitlines()[2] == "caches: none known; GPU: none"


def test_targets_as_json(slipway: Slipway) -> None:
    printed = slipway("targets", "--json").object

    assert printed["hardware"] == host_hardware().model_dump(mode="json")
    assert [one["engine"] for one in printed["engines"]] == list(ENGINES)
    assert all(one["available"] for one in printed["engines"] if one["engine"] in {"torch", "onnxruntime", "openvino"})
    assert all(one["reason"] for one in printed["engines"] if not one["available"] or not one["runs"])


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
    assert list(checks) == [
        "versions",
        "disk",
        "engines",
        "registry",
        "data data/test",
        "target x86",
        "engine digits.x86",
    ]
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
    (engine,) = [check for check in ended.object["checks"] if check["name"] == "engine digits.x86"]
    (reason,) = engine["decision"]["reasons"]
    assert reason.startswith("champion version 2 is stale: built on cpu (x86_64), this host is ")
    assert "previous" not in reason, "it was measured here"


@pytest.mark.usefixtures("_sound")
def test_the_engines_of_a_work_pool_are_not_held_against_this_host(
    slipway: Slipway, registry: FakeRegistry, project: Path
) -> None:
    version = register_engine(registry, project, "digits.x86", b"elsewhere").version
    registry.promote("digits.x86", version, None, None)
    (project / "params.yaml").write_text(PARAMS.replace("[torch]", "[torch], work_pool: edge"))

    assert slipway("doctor").code == 0


@pytest.mark.usefixtures("_sound")
@pytest.mark.parametrize(
    ("params", "name", "told"),
    [
        (PARAMS.replace("torch", "tortch"), "target x86", "unknown engine 'tortch', did you mean 'torch'?"),
        (
            PARAMS.replace("[torch]", "[torch], settings: {torch: {speed: 1}}"),
            "target x86",
            "engine torch has no setting 'speed'",
        ),
        (PARAMS + "variants: [int8-static]\n", "target x86", "variant int8-static needs calibration data"),
        (PARAMS.replace("data/test", "data/test, training: data/none"), "data data/none", ""),
    ],
    ids=["misspelt engine", "wrong setting", "no calibration data named", "training data missing"],
)
def test_what_a_release_would_refuse_is_told(
    params: str, name: str, told: str, slipway: Slipway, project: Path
) -> None:
    (project / "params.yaml").write_text(params)

    ended = slipway("doctor", "--json")

    assert ended.code == 5
    failed = {
        c["name"]: c["decision"]["reasons"][0] for c in ended.object["checks"] if c["decision"]["verdict"] != "PASS"
    }
    assert failed.keys() == {name}
    assert told in failed[name]
