from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from slipway.config import TargetParams
from slipway.engines.base import Availability
from slipway.errors import InfrastructureError, UnsupportedError
from slipway.records import Verdict
from slipway.steps import doctor
from slipway.steps.doctor import examine
from tests.fakes.evidence import HARDWARE
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.material import images, write_data
from tests.unit.steps.registered import register_engine


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry()
    register_engine(registry, tmp_path, "digits.x86")
    registry.promote("digits.x86", "1", None, None)
    return registry


def decide(name: str, registry: FakeRegistry, root: Path, **changes: object) -> tuple[Verdict, str]:
    """Verdict and reason of one of all the checks; every other one has to have been made as well."""
    asked = {"data": [], "targets": {}, "engines": {"digits.x86": HARDWARE, "digits.arm": HARDWARE}} | changes
    checks = {check.name: check.decision for check in examine(registry, root, **asked)}  # type: ignore[arg-type]
    assert {"versions", "disk", "engines", "registry"} < checks.keys()
    (reason,) = checks[name].reasons
    return checks[name].verdict, reason


def test_a_sound_set_up_passes(registry: FakeRegistry, tmp_path: Path) -> None:
    checks = examine(registry, tmp_path, [], {}, {"digits.x86": HARDWARE, "digits.arm": HARDWARE})

    assert [(check.name, check.decision.verdict) for check in checks] == [
        ("versions", "PASS"),
        ("disk", "PASS"),
        ("engines", "PASS"),
        ("registry", "PASS"),
        ("engine digits.x86", "PASS"),
        ("engine digits.arm", "PASS"),
    ]
    told = {check.name: check.decision.reasons[0] for check in checks}
    assert f"prefect {importlib.metadata.version('prefect')}" in told["versions"]
    assert told["engines"].startswith("torch, torchscript, ")
    assert {"onnxruntime", "openvino"} <= set(told["engines"].split(", "))
    assert told["engine digits.x86"] == "champion version 1, measured on such a host as this"
    assert told["engine digits.arm"] == "none yet"


@pytest.mark.parametrize(
    ("package", "version", "verdict"),
    [
        ("fastapi", "0.150.9", Verdict.PASS),
        ("fastapi", "0.151.0", Verdict.FAIL),
        ("fastapi", "1.0", Verdict.FAIL),
        ("sqlalchemy", "2.1.0b1", Verdict.FAIL),
        ("sqlalchemy", "2.0.57", Verdict.PASS),
    ],
)
def test_a_version_that_breaks_prefect_is_named(
    package: str,
    version: str,
    verdict: Verdict,
    registry: FakeRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else installed(name))

    found, reason = decide("versions", registry, tmp_path)

    assert found is verdict
    if verdict is Verdict.FAIL:
        assert reason.startswith(f"{package} {version} breaks Prefect at run time; install '{package}<")


def test_a_full_disk_is_told(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))

    assert decide("disk", registry, tmp_path) == (
        Verdict.FAIL,
        f"1.0 GiB free under {tmp_path}; a release wants 2",
    )


def test_without_another_engine_than_pytorchs_there_is_nothing_to_win(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def availabilities() -> tuple[Availability, ...]:
        return tuple(
            Availability(engine=name, available=name.startswith("torch"), version="1", reason=None, extra=None)
            for name in ("torch", "torchscript", "onnxruntime")
        )

    monkeypatch.setattr(doctor, "availabilities", availabilities)

    verdict, reason = decide("engines", registry, tmp_path)
    assert verdict is Verdict.FAIL
    assert "pip install 'slipway[onnxruntime,openvino]'" in reason


def test_a_registry_that_does_not_answer_is_told_and_the_other_checks_go_on(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check() -> None:
        raise InfrastructureError("cannot reach MLflow at http://nowhere")

    monkeypatch.setattr(registry, "check", check)

    assert decide("registry", registry, tmp_path) == (Verdict.FAIL, "cannot reach MLflow at http://nowhere")
    assert decide("disk", registry, tmp_path)[0] is Verdict.PASS


def test_data_is_hashed(registry: FakeRegistry, tmp_path: Path) -> None:
    from dvc.repo import Repo

    from slipway.stores.tracking import track

    Repo.init(str(tmp_path), no_scm=True).close()
    directory = tmp_path / "data"
    write_data(directory, images(4), np.zeros(4, np.int64))
    track(directory)
    verdict, reason = decide(f"data {directory}", registry, tmp_path, data=[directory])
    assert (verdict, reason[:4], reason[-9:]) == (Verdict.PASS, "md5 ", ", 2 files")

    (directory / "shard-00000.npz").unlink()
    verdict, reason = decide(f"data {directory}", registry, tmp_path, data=[directory])
    assert verdict is Verdict.FAIL
    assert "missing shard-00000.npz" in reason


def test_every_version_that_an_alias_names_may_be_stale(registry: FakeRegistry, tmp_path: Path) -> None:
    """Each is told, with the commands that build them anew; one that no alias names serves nobody."""
    elsewhere = HARDWARE.model_copy(update={"cpu": "another cpu", "fingerprint": "0" * 64})
    many = HARDWARE.model_copy(update={"cores": 64})
    register_engine(registry, tmp_path, "digits.x86", b"second", hardware=elsewhere, model_uri="models:/digits/2")
    register_engine(registry, tmp_path, "digits.x86", b"third", hardware=many)
    register_engine(registry, tmp_path, "digits.x86", b"fourth", hardware=elsewhere)
    registry.promote("digits.x86", "2", None, None)
    registry.set_challenger("digits.x86", "3")

    model = registry.version("digits.x86", "3").evidence.model_uri
    assert decide("engine digits.x86", registry, tmp_path) == (
        Verdict.FAIL,
        "challenger version 3 is stale: measured on 64 cores, this host gives 2; champion version 2 is stale: built on "
        f"another cpu (x86_64), this host is cpu (x86_64); run `slipway release {model} --target x86` and "
        "`slipway release models:/digits/2 --target x86` here to build anew",
    )
    registry.promote("digits.x86", "1", None, None)
    told = decide("engine digits.x86", registry, tmp_path)[1]
    assert "previous version 2 is stale" in told
    assert "champion" not in told


def test_another_engines_runtime_makes_no_champion_stale(registry: FakeRegistry, tmp_path: Path) -> None:
    here = HARDWARE.model_copy(update={"runtimes": {"tvm": "0.27"}, "fingerprint": "0" * 64})

    assert decide("engine digits.x86", registry, tmp_path, engines={"digits.x86": here})[0] is Verdict.PASS


def test_what_serves_on_other_hosts_is_not_held_against_this_one(registry: FakeRegistry, tmp_path: Path) -> None:
    assert decide("engine digits.x86", registry, tmp_path, engines={"digits.x86": None}) == (
        Verdict.PASS,
        "champion version 1 of another host; run `slipway doctor` where the target's workers run",
    )


def availability(name: str, **changes: object) -> Availability:
    found = Availability(engine=name, available=True, version="1", reason=None, extra=None)
    return found.model_copy(update=changes)


def test_an_engine_that_only_builds_serves_no_target_alone(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abroad = availability("tensorrt-rtx", runs=False, reason="it wants an RTX GPU")
    monkeypatch.setattr(doctor, "availabilities", lambda: (availability("torch"), abroad))

    def told(*engines: str, **changes: str) -> tuple[Verdict, str]:
        target = TargetParams(engines=engines, **changes)  # type: ignore[arg-type]
        return decide("target x86", registry, tmp_path, targets={"x86": lambda: target})

    assert told("torch", "tensorrt-rtx") == (Verdict.PASS, "torch, tensorrt-rtx (builds only)")
    assert told("tensorrt-rtx") == (
        Verdict.FAIL,
        "nothing that it builds runs on this host, so nothing can be chosen (tensorrt-rtx: it wants an RTX GPU)",
    )
    assert told("tensorrt-rtx", work_pool="gpu") == (Verdict.PASS, "tensorrt-rtx on a worker of pool gpu")
    assert decide("engines", registry, tmp_path)[0] is Verdict.FAIL, "it is no engine to measure with"


def test_why_no_release_would_start_on_a_target_is_told(registry: FakeRegistry, tmp_path: Path) -> None:
    def checked() -> TargetParams:
        raise UnsupportedError("engine tensorrt is not available here: no GPU")

    assert decide("target x86", registry, tmp_path, targets={"x86": checked}) == (
        Verdict.FAIL,
        "engine tensorrt is not available here: no GPU",
    )
