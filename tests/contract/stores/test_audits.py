"""What every registry keeps of audits, whatever it stores things in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slipway.records import Audit, Decision, Evidence, Verdict
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.objects import digest_of
from slipway.stores.registry import Registry
from tests.fakes.evidence import evidence, release


@pytest.fixture
def champion(registry: Registry, name: str, tmp_path: Path) -> Evidence:
    """The evidence on the champion of ``NAME.x86``, which is version 1."""
    return _released(registry, name, tmp_path)


def _released(
    registry: Registry, name: str, folder: Path, verdict: Verdict = Verdict.PASS, revision: str = "c0"
) -> Evidence:
    """A release of version 1 of ``name`` that ended so on x86."""
    engine = folder / "engine.onnx"
    engine.write_text(name)
    found = evidence(digest_of(engine), model_uri=f"models:/{name}/1")
    done = release(found, model=name, code_revision=revision)
    ended = Decision(verdict=verdict, reasons=("it ended so",))
    outcomes = tuple(one.model_copy(update={"decision": ended}) for one in done.targets)
    recorded = registry.record_release(done.model_copy(update={"targets": outcomes}), {str(found.digest): engine}, [])
    version = registry.register(f"{name}.x86", recorded, found)
    registry.promote(f"{name}.x86", version, None, None)
    return found


def _audit(name: str, recorded: Evidence, request: str | None = None) -> Audit:
    return Audit(
        name=f"{name}.x86",
        at=datetime.now(UTC),
        decision=Decision(verdict=Verdict.FAIL, reasons=("accuracy: 0.02 too much",)),
        version="1",
        recorded=recorded,
        fresh=recorded.model_copy(update={"data_md5": "new.dir"}),
        data_md5="new.dir",
        finding=f"finding of {name}",
        request=request,
    )


def test_a_version_tells_its_last_audit_and_moves_no_alias(registry: Registry, name: str, champion: Evidence) -> None:
    found = _audit(name, champion)

    assert registry.record_audit(found)
    registry.record_audit(found.model_copy(update={"decision": Decision(verdict=Verdict.PASS, reasons=())}))

    version = registry.version(f"{name}.x86", "1")
    assert version.tags["slipway.audit"] == "PASS"
    assert version.tags["slipway.audited_at"] == found.at.isoformat(timespec="seconds")
    assert version.aliases == ("champion",)
    assert version.evidence == champion, "what it was promoted on stays"


def test_only_an_audit_that_asked_is_remembered_as_asking(registry: Registry, name: str, champion: Evidence) -> None:
    found = _audit(name, champion)

    assert registry.requested_release(found) is None
    registry.record_audit(found)
    assert registry.requested_release(found) is None
    registry.record_audit(_audit(name, champion, request="event"))

    asked = registry.requested_release(found)
    assert asked is not None
    assert (asked.ended, asked.run_id) == (None, None), "the champion's own release was before"
    assert abs(asked.first_asked - datetime.now(UTC)) < timedelta(minutes=1)
    assert registry.requested_release(found.model_copy(update={"finding": "another"})) is None
    assert registry.requested_release(found.model_copy(update={"finding": None})) is None


def test_the_first_and_the_last_request_are_told(registry: Registry, name: str, champion: Evidence) -> None:
    for _ in range(3):
        registry.record_audit(_audit(name, champion, request="event"))

    asked = registry.requested_release(_audit(name, champion))

    assert asked is not None
    assert asked.first_asked < asked.last_asked


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE])
def test_a_release_since_then_has_ended_it(
    registry: Registry, name: str, champion: Evidence, tmp_path: Path, verdict: Verdict
) -> None:
    registry.record_audit(_audit(name, champion, request="event"))
    _released(registry, name, tmp_path, Verdict.ERROR, revision="broke")
    _released(registry, name, tmp_path, Verdict.SKIPPED, revision="no worker")
    found = registry.requested_release(_audit(name, champion))
    assert found is not None
    assert found.ended is None, "nothing was learnt"

    _released(registry, name, tmp_path, verdict, revision="again")

    ended = registry.requested_release(_audit(name, champion))
    assert ended is not None
    assert ended.ended is verdict
    assert ended.run_id


def test_a_release_of_another_version_has_not_ended_it(
    registry: Registry, name: str, champion: Evidence, tmp_path: Path
) -> None:
    other = champion.model_copy(update={"model_uri": f"models:/{name}/7"})
    registry.record_audit(_audit(name, other, request="event"))

    _released(registry, name, tmp_path, revision="again")

    found = registry.requested_release(_audit(name, other))
    assert found is not None
    assert found.ended is None


def test_mlflow_shows_the_audit_beside_the_candidates(
    mlflow_registry: MlflowRegistry, name: str, tmp_path: Path
) -> None:
    """Its metrics are bound to the data set by digest; its whole record reads back; releases are still found alone."""
    recorded = _released(mlflow_registry, name, tmp_path)
    found = _audit(name, recorded)

    run_id = mlflow_registry.record_audit(found)

    client = mlflow_registry._connection.client
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    tags = {key: run.data.tags[f"slipway.{key}"] for key in ("kind", "model", "target", "digest", "verdict", "finding")}
    assert tags == {
        "kind": "audit",
        "model": name,
        "target": "x86",
        "digest": recorded.digest,
        "verdict": "FAIL",
        "finding": f"finding of {name}",
    }
    assert run.data.metrics["accuracy"] == 0.98
    assert run.data.metrics["speedup"] == 2.0
    assert [one.dataset.digest for one in run.inputs.dataset_inputs] == ["new.dir"]
    text = mlflow_registry._connection.read(f"{run.info.artifact_uri}/audit.json")
    assert Audit.model_validate(json.loads(text)) == found
    assert mlflow_registry.candidates(name, None) == [recorded]
    assert mlflow_registry.find(str(recorded.digest)) == recorded


def test_what_could_not_be_measured_is_kept_too(mlflow_registry: MlflowRegistry, name: str, tmp_path: Path) -> None:
    recorded = _released(mlflow_registry, name, tmp_path)
    broken = _audit(name, recorded).model_copy(update={"fresh": None, "finding": None})

    run = mlflow_registry._connection.client.get_run(mlflow_registry.record_audit(broken))

    assert run.data.metrics == {}
    assert "slipway.finding" not in run.data.tags
