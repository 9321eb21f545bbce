from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import BadInputError
from slipway.records import Decision, Layer, Profile, Release, Verdict
from slipway.steps.register import register
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import evidence_sha256
from tests.fakes.evidence import evidence
from tests.fakes.evidence import release as release_of
from tests.fakes.registry import FakeRegistry

FAILED = Decision(verdict=Verdict.FAIL, reasons=("no",))


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def choosing(release: Release, **chosen: str) -> Release:
    """The release with a choice for some of its targets."""
    targets = tuple(one.model_copy(update={"chosen": chosen.get(one.target)}) for one in release.targets)
    return release.model_copy(update={"targets": targets})


def test_every_candidate_is_recorded_and_the_chosen_one_registered_once(objects: ObjectStore, tmp_path: Path) -> None:
    files = {}
    for name in ("fast.onnx", "slow.onnx", "report.md"):
        (tmp_path / name).write_text(f"bytes of {name}")
        files[name] = objects.put(tmp_path / name)
    fast, slow = evidence(files["fast.onnx"].digest), evidence(files["slow.onnx"].digest)
    on_arm = fast.model_copy(update={"spec": fast.spec.model_copy(update={"target": "arm"})})
    broken = evidence(None, decision=FAILED, timing=None)
    release = choosing(release_of(slow, fast, broken, on_arm), x86=str(fast.digest))
    registry, engines = FakeRegistry(), (files["fast.onnx"], files["slow.onnx"])

    recorded = register(registry, objects, release, engines, (files["report.md"],))

    assert recorded.versions == {"x86": "1"}, "no engine was chosen for arm"
    assert registry.version("digits.x86", "1").evidence == fast
    assert registry.engine_path("digits.x86", "1", tmp_path / "copy").read_text() == "bytes of fast.onnx"
    assert registry.aliases("digits.x86") == {}, "registering promotes nothing"
    assert "digits.arm" not in registry.models
    assert registry.candidates("digits", "x86") == [slow, fast, broken]
    assert registry.report_files[recorded.run_id] == ["report.md"]

    assert register(registry, objects, release, engines, (files["report.md"],)) == recorded
    assert len(registry.models["digits.x86"].versions) == 1


def test_profile_and_attachments_are_kept_beside_the_evidence(objects: ObjectStore, tmp_path: Path) -> None:
    for name in ("engine.onnx", "trace.json"):
        (tmp_path / name).write_text(f"bytes of {name}")
    engine, trace = objects.put(tmp_path / "engine.onnx"), objects.put(tmp_path / "trace.json")
    layer = Layer(name="conv_1", kind="Conv", precision="fp32", multiplies=True, time_us=3.0)
    profile = Profile(tool="onnxruntime", layers=(layer,), calls=10, batch=1, threads=1)
    found = evidence(engine.digest, profile=profile, attachments=(trace,))
    registry = FakeRegistry()

    register(registry, objects, release_of(found), (engine,), ())

    attached = registry.attached[evidence_sha256(found)]
    assert list(attached) == ["trace.json", "profile.csv"]
    assert attached["trace.json"] == b"bytes of trace.json"


def test_a_candidate_whose_file_is_not_given_is_refused(objects: ObjectStore) -> None:
    found = evidence("e" * 64)

    with pytest.raises(BadInputError):
        register(FakeRegistry(), objects, choosing(release_of(found), x86="e" * 64), (), ())


def test_a_target_without_a_choice_registers_nothing(objects: ObjectStore) -> None:
    registry = FakeRegistry()

    recorded = register(registry, objects, release_of(evidence(None, decision=FAILED)), (), ())

    assert recorded.versions == {}
    assert registry.models == {}
