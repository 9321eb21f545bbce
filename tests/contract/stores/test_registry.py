"""What every registry keeps, whatever it stores things in."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from slipway.decisions.approval import Approval
from slipway.errors import BadInputError, TamperedError
from slipway.records import Artifact, CandidateSpec, Contender, Decision, Evidence, Phase, Rollout, Verdict
from slipway.stores.approvals import approvals_of
from slipway.stores.mlmodel import read_mlmodel
from slipway.stores.objects import digest_of
from slipway.stores.registry import RecordedRelease, Registry, evidence_sha256, utc_now
from tests.fakes.evidence import SIGNATURE, evidence, release


def _engine(directory: Path, content: str) -> tuple[str, Path]:
    """An engine file with its digest; contents differ between tests so that digests do."""
    path = directory / f"{hashlib.sha256(content.encode()).hexdigest()[:8]}.onnx"
    path.write_text(content)
    return digest_of(path), path


def _recorded(registry: Registry, directory: Path, name: str, *contents: str) -> tuple[RecordedRelease, list[Evidence]]:
    engines = dict(_engine(directory, f"{name} {content}") for content in contents)
    found = [evidence(digest) for digest in engines]
    return registry.record_release(release(*found, model=name), engines, []), found


def _registered(registry: Registry, directory: Path, name: str, *contents: str) -> list[str]:
    recorded, found = _recorded(registry, directory, name, *contents)
    return [registry.register(f"{name}.x86", recorded, one) for one in found]


def test_logged_model_comes_back_as_pt2_with_its_signature(registry: Registry, name: str, tmp_path: Path) -> None:
    import torch

    module = torch.nn.Linear(4, 2).eval()
    ref = registry.log_model(module, SIGNATURE, {"x": np.zeros((2, 4), np.float32)}, name)
    model = read_mlmodel(registry.download(ref, tmp_path))

    assert (ref.name, ref.version, ref.uri) == (name, "1", f"models:/{name}/1")
    assert (model.format, model.signature) == ("pt2", SIGNATURE)
    loaded = torch.export.load(model.file).module()
    x = torch.ones(5, 4)
    torch.testing.assert_close(loaded(x), module(x))


def test_same_weights_give_the_same_version_and_others_a_new_one(registry: Registry, name: str) -> None:
    import torch

    example = {"x": np.zeros((2, 4), np.float32)}
    first, other = torch.nn.Linear(4, 2).eval(), torch.nn.Linear(4, 2).eval()

    assert registry.log_model(first, SIGNATURE, example, name).version == "1"
    assert registry.log_model(first, SIGNATURE, example, name).version == "1"
    assert registry.log_model(other, SIGNATURE, example, name).version == "2"


@pytest.mark.parametrize(
    ("example", "training", "said"),
    [
        ({"x": np.zeros((1, 4), np.float32)}, False, "batch below 2"),
        ({"z": np.zeros((2, 4), np.float32)}, False, "name them alike"),
        ({"x": np.zeros((2, 4), np.float32)}, True, "training mode"),
    ],
)
def test_models_that_would_export_wrongly_are_refused(
    registry: Registry, name: str, example: dict[str, np.ndarray], training: bool, said: str
) -> None:
    import torch

    with pytest.raises(BadInputError, match=said):
        registry.log_model(torch.nn.Linear(4, 2).train(training), SIGNATURE, example, name)


def test_aliases_resolve_to_the_version_they_name(registry: Registry, name: str, tmp_path: Path) -> None:
    _registered(registry, tmp_path, name, "one", "two")
    registry.set_challenger(f"{name}.x86", "2")

    assert registry.resolve(f"models:/{name}.x86@challenger").uri == f"models:/{name}.x86/2"
    assert registry.resolve(f"models:/{name}.x86/1").version == "1"


@pytest.mark.parametrize(
    ("suffix", "said"), [("@champion", "no alias 'champion'; it has challenger"), ("/9", "no version 9")]
)
def test_missing_alias_or_version_is_bad_input(
    registry: Registry, name: str, tmp_path: Path, suffix: str, said: str
) -> None:
    _registered(registry, tmp_path, name, "one")
    registry.set_challenger(f"{name}.x86", "1")

    with pytest.raises(BadInputError, match=said):
        registry.resolve(f"models:/{name}.x86{suffix}")


@pytest.mark.parametrize("uri", ["models:/nowhere/1", "models:/x", "models:/x/latest", "runs:/a/model", "models:/x@"])
def test_unknown_model_or_malformed_uri_is_bad_input(registry: Registry, uri: str) -> None:
    with pytest.raises(BadInputError):
        registry.resolve(uri)


def test_recording_a_release_again_returns_the_earlier_record(registry: Registry, name: str, tmp_path: Path) -> None:
    once, found = _recorded(registry, tmp_path, name, "one", "two")
    again, _ = _recorded(registry, tmp_path, name, "one", "two")

    assert again == once
    assert set(once.model_ids) == {evidence_sha256(one) for one in found}


def test_a_release_with_other_evidence_is_another_release(registry: Registry, name: str, tmp_path: Path) -> None:
    digest, path = _engine(tmp_path, name)
    one = registry.record_release(release(evidence(digest), model=name), {digest: path}, [])
    changed = evidence(digest, size_bytes=6)
    other = registry.record_release(release(changed, model=name), {digest: path}, [])

    assert other.run_id != one.run_id
    assert registry.candidates(name, None) == [changed, evidence(digest)]


def test_engine_bytes_that_differ_from_the_evidence_are_refused(registry: Registry, name: str, tmp_path: Path) -> None:
    digest, path = _engine(tmp_path, name)
    path.write_text("other bytes")

    with pytest.raises(TamperedError, match="should hash to"):
        registry.record_release(release(evidence(digest), model=name), {digest: path}, [])
    assert registry.candidates(name, None) == []


def test_a_candidate_without_its_engine_file_is_bad_input(registry: Registry, name: str, tmp_path: Path) -> None:
    digest, _ = _engine(tmp_path, name)
    with pytest.raises(BadInputError, match="no engine file"):
        registry.record_release(release(evidence(digest), model=name), {}, [])


def test_candidates_hold_those_that_never_became_a_file(registry: Registry, name: str, tmp_path: Path) -> None:
    digest, path = _engine(tmp_path, name)
    error = Decision(verdict=Verdict.ERROR, reasons=("build: crashed",))
    built = evidence(digest)
    failed = evidence(None, decision=error, accuracy=None, timing=None, size_bytes=None)
    arm = evidence(digest, spec=CandidateSpec(target="arm", variant="fp32", engine="onnxruntime"))
    recorded = registry.record_release(release(built, failed, arm, model=name), {digest: path}, [])

    assert registry.candidates(name, "x86") == [built, failed]
    assert registry.candidates(name, "arm") == [arm]
    assert registry.candidates("nowhere", None) == []
    assert set(recorded.model_ids) == {evidence_sha256(built), evidence_sha256(arm)}
    with pytest.raises(BadInputError, match="no engine file"):
        registry.register(f"{name}.x86", recorded, failed)


def test_find_takes_a_unique_prefix(registry: Registry, name: str, tmp_path: Path) -> None:
    _, (one, two) = _recorded(registry, tmp_path, name, "one", "two")
    assert one.digest is not None

    assert registry.find(one.digest) == one
    assert registry.find(one.digest[:12]) == one
    for prefix in ("0" * 64, "ab", "not-hex!"):
        with pytest.raises(BadInputError, match="digest"):
            registry.find(prefix)
    assert two.digest != one.digest


def test_find_tells_targets_apart_that_share_a_file(registry: Registry, name: str, tmp_path: Path) -> None:
    digest, path = _engine(tmp_path, name)
    here, there = evidence(digest), evidence(digest, spec=evidence(digest).spec.model_copy(update={"target": "arm"}))
    registry.record_release(release(here, there, model=name), {digest: path}, [])

    assert registry.find(digest, "x86") == here
    assert registry.find(digest[:12], "arm") == there
    with pytest.raises(BadInputError, match="one candidate"):
        registry.find(digest, "gpu")


def test_find_refuses_a_prefix_of_two_candidates(registry: Registry, name: str, tmp_path: Path) -> None:
    seen: dict[str, str] = {}
    for number in range(2000):  # four digits meet by chance long before that
        content = f"{name} {number}"
        prefix = hashlib.sha256(content.encode()).hexdigest()[:4]
        if prefix in seen:
            break
        seen[prefix] = content
    engines = dict(_engine(tmp_path, one) for one in (content, seen[prefix]))
    registry.record_release(release(*map(evidence, engines), model=name), engines, [])

    with pytest.raises(BadInputError, match="one candidate"):
        registry.find(prefix)


def test_a_registered_version_carries_its_evidence(registry: Registry, name: str, tmp_path: Path) -> None:
    recorded, (found,) = _recorded(registry, tmp_path, name, "one")
    version = registry.register(f"{name}.x86", recorded, found)
    engine = registry.version(f"{name}.x86", version)

    assert (engine.version, engine.digest, engine.evidence, engine.aliases) == ("1", found.digest, found, ())
    assert engine.tags["slipway.verdict"] == "PASS"
    assert engine.tags["slipway.evidence_sha256"] == evidence_sha256(found)
    assert engine.tags["slipway.source_model"] == found.model_uri


def test_registering_again_returns_the_version(registry: Registry, name: str, tmp_path: Path) -> None:
    assert _registered(registry, tmp_path, name, "one", "two") == ["1", "2"]
    assert _registered(registry, tmp_path, name, "one", "two") == ["1", "2"]


def test_an_engine_file_comes_back_byte_for_byte(registry: Registry, name: str, tmp_path: Path) -> None:
    (version,) = _registered(registry, tmp_path, name, "one")

    path = registry.engine_path(f"{name}.x86", version, tmp_path / "out")

    assert path.suffix == ".onnx"
    assert path.read_text() == f"{name} one"


def test_an_engine_directory_comes_back_with_the_same_digest(registry: Registry, name: str, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.xml").write_text(f"<xml>{name}")
    (directory / "model.bin").write_bytes(bytes(10))
    found = evidence(digest_of(directory))
    recorded = registry.record_release(release(found, model=name), {str(found.digest): directory}, [])
    version = registry.register(f"{name}.x86", recorded, found)

    path = registry.engine_path(f"{name}.x86", version, tmp_path / "out")

    assert digest_of(path) == found.digest


def _with_companions(
    registry: Registry, directory: Path, name: str, named: dict[str, str], kept: dict[str, str]
) -> tuple[str, str]:
    """A registered version whose evidence names files with the contents ``named``, and beside which are ``kept``."""
    digest, path = _engine(directory, name)
    attachments = []
    for file_name, content in named.items():
        described = directory / "named" / file_name
        described.parent.mkdir(exist_ok=True)
        described.write_text(content)
        attachments.append(Artifact(digest=digest_of(described), name=file_name, size_bytes=len(content)))
    found = evidence(digest, attachments=tuple(attachments))
    files = []
    for file_name, content in kept.items():
        files.append(directory / "kept" / file_name)
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_text(content)
    recorded = registry.record_release(release(found, model=name), {digest: path}, [], {evidence_sha256(found): files})
    return f"{name}.x86", registry.register(f"{name}.x86", recorded, found)


def test_what_is_kept_beside_the_evidence_comes_back_by_file_name(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    named = {"example.npz": f"example of {name}", "trace.json": "{}"}
    model, version = _with_companions(registry, tmp_path, name, named, named | {"profile.csv": "no evidence names it"})

    found = registry.companions(model, version, tmp_path / "out")

    assert {file_name: path.read_text() for file_name, path in found.items()} == named
    assert all(path.parent == tmp_path / "out" for path in found.values())


def test_a_companion_that_is_no_longer_stored_is_left_out(registry: Registry, name: str, tmp_path: Path) -> None:
    named = {"example.npz": "example", "trace.json": "{}"}
    model, version = _with_companions(registry, tmp_path, name, named, {"trace.json": "{}"})

    assert set(registry.companions(model, version, tmp_path / "out")) == {"trace.json"}


def test_a_changed_companion_is_never_handed_out(registry: Registry, name: str, tmp_path: Path) -> None:
    named = {"example.npz": "example", "trace.json": "{}"}
    model, version = _with_companions(registry, tmp_path, name, named, named | {"example.npz": "exemple"})

    with pytest.raises(TamperedError, match=r"example\.npz, .* do not use it"):
        registry.companions(model, version, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_version_without_companions_has_none(registry: Registry, name: str, tmp_path: Path) -> None:
    (version,) = _registered(registry, tmp_path, name, "one")

    assert registry.companions(f"{name}.x86", version, tmp_path / "out") == {}
    with pytest.raises(BadInputError):
        registry.companions(f"{name}.x86", "9", tmp_path / "out")


def test_promotion_keeps_the_old_champion_as_previous(registry: Registry, name: str, tmp_path: Path) -> None:
    _registered(registry, tmp_path, name, "one", "two")
    model = f"{name}.x86"
    registry.promote(model, "1", None, None)
    assert registry.aliases(model) == {"champion": "1"}

    registry.set_challenger(model, "2")
    for _ in range(2):  # repeating it is harmless
        registry.promote(model, "2", "ada", "canary passed")

    assert registry.aliases(model) == {"champion": "2", "previous": "1"}
    engine = registry.version(model, "2")
    assert engine.aliases == ("champion",)
    assert engine.tags["slipway.approver"] == "ada"
    assert engine.tags["slipway.reason"] == "canary passed"


def test_the_same_file_measured_again_leaves_the_way_back(registry: Registry, name: str, tmp_path: Path) -> None:
    model = f"{name}.x86"
    _registered(registry, tmp_path, name, "one", "two")
    registry.promote(model, "1", None, None)
    registry.promote(model, "2", None, None)
    digest = registry.version(model, "2").digest
    again = evidence(digest, code_revision="later")
    recorded = registry.record_release(
        release(again, model=name), {digest: registry.engine_path(model, "2", tmp_path / "two")}, []
    )
    assert registry.register(model, recorded, again) == "3"
    assert registry.earlier_decision(model, digest) == "promoted"

    registry.promote(model, "3", None, None)

    assert registry.aliases(model) == {"champion": "3", "previous": "1"}
    assert registry.rollback(model).version == "1"
    assert registry.earlier_decision(model, digest) == "rolled back"
    assert registry.earlier_decision(model, "0" * 64) is None


def test_promotion_leaves_another_challenger_alone(registry: Registry, name: str, tmp_path: Path) -> None:
    _registered(registry, tmp_path, name, "one", "two")
    registry.set_challenger(f"{name}.x86", "2")
    registry.promote(f"{name}.x86", "1", None, None)

    assert registry.aliases(f"{name}.x86") == {"champion": "1", "challenger": "2"}


def test_a_rejected_version_is_told_so_and_is_no_challenger_any_more(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    model = f"{name}.x86"
    _registered(registry, tmp_path, name, "one", "two")
    registry.promote(model, "1", None, None)
    registry.set_challenger(model, "2")
    for _ in range(2):  # repeating it is harmless
        registry.reject(model, "2", "ada", "too slow on Mondays")

    assert registry.aliases(model) == {"champion": "1"}
    tags = registry.version(model, "2").tags
    assert tags["slipway.decision"] == "rejected"
    assert (tags["slipway.approver"], tags["slipway.reason"]) == ("ada", "too slow on Mondays")


def test_a_refusal_clears_approvals_and_every_decision_tells_when(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    model = f"{name}.x86"
    _registered(registry, tmp_path, name, "one", "two")
    registry.promote(model, "1", None, None)
    approval = Approval(person="ann@x.org", reason="yes", authenticated=True, when=utc_now(), evidence="e")

    def approved() -> tuple[Approval, ...]:
        registry.approve(model, "2", approval)
        return approvals_of(registry.version(model, "2").tags)

    for refuse in (registry.reject, registry.withdraw):
        before = utc_now()
        assert approved() == (approval,)
        refuse(model, "2", "ada", "no")
        tags = registry.version(model, "2").tags
        assert approvals_of(tags) == ()
        assert before <= datetime.fromisoformat(tags["slipway.decided_at"]) <= utc_now()
    registry.promote(model, "2", "ann, carl", "yes")
    assert approved() == (approval,)
    registry.rollback(model)
    assert approvals_of(registry.version(model, "2").tags) == ()


def test_a_store_without_users_knows_nobody(registry: Registry) -> None:
    assert registry.user() is None


def test_the_champion_is_told_where_there_is_one(registry: Registry, name: str, tmp_path: Path) -> None:
    model = f"{name}.x86"
    assert registry.champion(model) is None
    _registered(registry, tmp_path, name, "one")
    assert registry.champion(model) is None
    registry.promote(model, "1", None, None)
    assert registry.champion(model) == "1"


def test_rollback_returns_to_the_previous_version_once(registry: Registry, name: str, tmp_path: Path) -> None:
    _registered(registry, tmp_path, name, "one", "two")
    model = f"{name}.x86"
    registry.promote(model, "1", None, None)
    registry.promote(model, "2", None, None)

    assert registry.rollback(model).version == "1"
    assert registry.aliases(model) == {"champion": "1"}
    assert registry.version(model, "2").tags["slipway.decision"] == "rolled back"
    with pytest.raises(BadInputError, match="no previous version"):
        registry.rollback(model)
    assert registry.aliases(model) == {"champion": "1"}


def test_aliases_and_tags_of_what_is_not_there_are_bad_input(registry: Registry, name: str, tmp_path: Path) -> None:
    _registered(registry, tmp_path, name, "one")

    with pytest.raises(BadInputError):
        registry.aliases("nowhere")
    with pytest.raises(BadInputError):
        registry.tag(f"{name}.x86", "7", "key", "value")
    with pytest.raises(BadInputError):
        registry.set_challenger(f"{name}.x86", "7")
    with pytest.raises(BadInputError):
        registry.promote(f"{name}.x86", "7", None, None)
    assert registry.aliases(f"{name}.x86") == {}


def test_a_tag_can_be_read_back(registry: Registry, name: str, tmp_path: Path) -> None:
    _registered(registry, tmp_path, name, "one")
    registry.tag(f"{name}.x86", "1", "slipway.reason", "looks fine")

    assert registry.version(f"{name}.x86", "1").tags["slipway.reason"] == "looks fine"


def test_source_models_are_no_engines(registry: Registry, name: str) -> None:
    import torch

    registry.log_model(torch.nn.Linear(4, 2).eval(), SIGNATURE, {"x": np.zeros((2, 4), np.float32)}, name)

    with pytest.raises(BadInputError, match="not registered by Slipway"):
        registry.version(name, "1")


def test_a_reachable_store_passes_the_check(registry: Registry) -> None:
    registry.check()


def test_a_withdrawn_version_is_challenger_no_more_and_keeps_why(registry: Registry, name: str, tmp_path: Path) -> None:
    _registered(registry, tmp_path, name, "one", "two")
    model = f"{name}.x86"
    registry.promote(model, "1", None, None)
    registry.set_challenger(model, "2")

    for _ in range(2):  # repeating it is harmless
        registry.withdraw(model, "2", "the canary", "p95 12 ms exceeds 10 ms")

    assert registry.aliases(model) == {"champion": "1"}
    tags = registry.version(model, "2").tags
    assert [tags[f"slipway.{key}"] for key in ("decision", "approver", "reason")] == [
        "rolled back",
        "the canary",
        "p95 12 ms exceeds 10 ms",
    ]
    assert registry.earlier_decision(model, registry.version(model, "2").digest) == "rolled back"
    with pytest.raises(BadInputError):
        registry.withdraw(model, "9", "ada", "no")


def test_a_rollout_is_recorded_once_and_its_version_names_the_run(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    _registered(registry, tmp_path, name, "one", "two")
    model = f"{name}.x86"
    first, second = (registry.version(model, version) for version in ("1", "2"))
    rollout = Rollout(
        rollout_id=f"rollout of {name}",
        name=model,
        champion=Contender(version="1", digest=first.digest),
        challenger=Contender(version="2", digest=second.digest),
        policy_json="{}",
        phase=Phase.PROMOTED,
        started_s=1.0,
        phase_since_s=2.0,
    )
    course = tmp_path / "rollout.jsonl"
    course.write_text("{}\n")

    run = registry.record_rollout(rollout, [course])

    assert registry.record_rollout(rollout, [course]) == run
    assert registry.version(model, "2").tags["slipway.rollout_run"] == run
    assert registry.candidates(name, None), "it is no release"
