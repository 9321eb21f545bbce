from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from slipway.config import Params, TargetParams
from slipway.errors import InfrastructureError, TamperedError
from slipway.measure.plan import TimingPlan
from slipway.records import Audit, AuditResult, Decision, Evidence, Failure, Form, Timed, Validated, Verdict
from slipway.reports.audit import audit_markdown
from slipway.steps import benchmark as timing_step
from slipway.steps.audit import (
    Standing,
    check_source,
    conclude_audit,
    find_standing,
    fresh_evidence,
    open_champion,
    session_options,
)
from slipway.steps.benchmark import benchmark
from slipway.steps.judge import Context
from slipway.steps.validate import evaluate_reference, validate
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import RegisteredEngine, canonical_json, evidence_sha256
from tests.fakes.evidence import HARDWARE, LATENCY, TIMING, evidence, release
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.material import EXAMPLES, Material, answers, images, write_data
from tests.unit.steps.records import ACCURACY, BUILT, PARITY, context
from tests.unit.steps.registered import register_engine
from tests.unit.steps.test_benchmark import QUICK, SHORT

NAME = "digits.x86"
NIGHT = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
PARAMS = Params.model_validate(
    {
        "model": "models:/digits/2",
        "data": {"test": "data"},
        "accuracy": {"max_drop": 0.1},
        # The tests' host is shared: another session may differ by more than any real threshold.
        "targets": {"x86": {"engines": ["onnxruntime"], "max_regression": 0.9}},
    }
)


@pytest.fixture
def registered(tmp_path: Path) -> tuple[FakeRegistry, RegisteredEngine]:
    registry = FakeRegistry()
    engine = register_engine(registry, tmp_path, NAME)
    registry.promote(NAME, engine.version, None, None)
    return registry, engine


def standing(recorded: Evidence, stale: tuple[str, ...] = ()) -> Standing:
    return Standing(name=NAME, version="1", recorded=recorded, stale=stale)


def test_without_a_champion_there_is_nothing_to_audit(tmp_path: Path) -> None:
    registry = FakeRegistry()
    register_engine(registry, tmp_path, NAME)

    assert find_standing(registry, NAME, HARDWARE) is None
    assert find_standing(registry, "never.x86", HARDWARE) is None


def test_a_champion_is_found_with_its_evidence_and_why_it_is_stale_here(
    registered: tuple[FakeRegistry, RegisteredEngine],
) -> None:
    registry, engine = registered

    found = find_standing(registry, NAME, HARDWARE.model_copy(update={"cpu": "another"}))

    assert found is not None
    assert (found.version, found.recorded) == (engine.version, engine.evidence)
    assert found.stale == ("built on cpu (x86_64), this host is another (x86_64)",)


def test_the_very_file_is_opened_and_no_other_champion(
    registered: tuple[FakeRegistry, RegisteredEngine], tmp_path: Path
) -> None:
    """Somebody may promote another version while an audit goes on: that is not the one to be judged."""
    registry, engine = registered
    found, objects = find_standing(registry, NAME, HARDWARE), ObjectStore(tmp_path / "objects")
    assert found is not None

    built = open_champion(registry, objects, found, HARDWARE)
    assert (built.artifact.digest, built.options) == (engine.digest, engine.evidence.options)

    other = register_engine(registry, tmp_path, NAME, b"another")
    registry.promote(NAME, other.version, None, None)
    with pytest.raises(InfrastructureError, match="has had another champion than version 1 since this audit began"):
        open_champion(registry, objects, found, HARDWARE)


def test_a_changed_source_is_refused() -> None:
    source = context().model
    recorded = evidence("e" * 64, model_digest=source.digest)

    check_source(standing(recorded), source)
    with pytest.raises(TamperedError, match=r"models:/digits/1 should have sha256 bbbbbbbbbbbb.*found aaaaaaaaaaaa"):
        check_source(standing(recorded.model_copy(update={"model_digest": "b" * 64})), source)


def test_the_recorded_threads_and_batch_are_timed_whatever_is_set_now() -> None:
    target = TargetParams(engines=("onnxruntime",), threads=(1, 4, 8), batch=(1, 8), streams=(2,))
    timing = TIMING.model_copy(
        update={
            "latency": LATENCY.model_copy(update={"threads": 2, "batch": 8}),
            "reference_latency": LATENCY.model_copy(update={"threads": 1, "batch": 8}),
        }
    )

    found = session_options(target, evidence("e" * 64, timing=timing))

    assert (found.threads, found.batch, found.streams) == ((1, 2), (8, 1), (2,))
    assert session_options(target, evidence("e" * 64, timing=None)).threads == (1, 4, 8)


def test_a_stale_engine_is_a_finding_of_its_recorded_data() -> None:
    recorded = evidence("e" * 64)

    found = conclude_audit(standing(recorded, stale=("driver 1, here 2",)), PARAMS, None, NIGHT)

    assert found.decision == Decision(verdict=Verdict.FAIL, reasons=("stale: driver 1, here 2",))
    assert (found.data_md5, found.version, found.at) == (recorded.data_md5, "1", NIGHT)
    assert found.finding is not None


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few samples, and a lock of the test's own."""
    monkeypatch.setattr(timing_step, "TimingPlan", lambda **settings: TimingPlan(**QUICK, **settings))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def measured(material: Material, labels: np.ndarray, folder: Path, found: Standing | None = None) -> Evidence:
    """What the steps measure on a real engine, on data with these labels; by its own release without a ``found``."""
    built = material.built("fp32", "onnxruntime", Form.ONNX)
    data = write_data(folder, images(EXAMPLES), labels)
    predictions = evaluate_reference(material.objects, material.reference, data, ACCURACY, threads=1)
    done = validate(material.objects, built, data, predictions, ACCURACY, 1)
    target = PARAMS.targets["x86"]
    timings = benchmark(material.objects, target, SHORT, data, material.reference, [(built, done)], None)
    bound = Context(model=material.source, data=data, calibration=None, code_revision="c0ffee", hardware=HARDWARE)
    first = standing(evidence(built.artifact.digest, spec=built.spec, calibration_md5="c1"))
    return fresh_evidence(bound, found or first, PARAMS, built, done, timings.of(built), timings.reference_profile)


@pytest.mark.usefixtures("_quick")
def test_a_real_engine_keeps_what_it_was_released_for(material: Material, tmp_path: Path) -> None:
    """Measured twice: as by its release, and again by the audit; all gates are there, and what it was made with."""
    labels = answers(material.module, images(EXAMPLES)).argmax(1)
    recorded = measured(material, labels, tmp_path / "then")
    here = standing(recorded)

    fresh = measured(material, labels, tmp_path / "now", here)
    found = conclude_audit(here, PARAMS, fresh, NIGHT)

    assert fresh.digest == recorded.digest
    assert fresh.calibration_md5 == "c1"
    assert fresh.timing is not None
    assert fresh.timing != recorded.timing
    assert {"stale", "parity", "accuracy", "timing", "speed"} <= found.gates.keys()
    assert {name for name, gate in found.gates.items() if gate.verdict is not Verdict.PASS} <= {"timing"}
    assert found.finding is None


def validated(drop: float) -> Validated:
    accuracy = evidence(None).accuracy
    assert accuracy is not None
    lost = {"drop": drop, "drop_lower": drop - 0.01, "drop_upper": drop + 0.01}
    parity = PARITY.model_copy(update={"max_rel_diff": 0.0, "top1_agreement": 1.0, "cosine": 1.0})
    return Validated(
        accuracy=accuracy.model_copy(update=lost),
        parity=parity,
        executed_precision={},
        predictions=context().model.program,
    )


def judged(here: Standing, done: Validated | Failure, timed: Timed | Failure) -> Audit:
    fresh = fresh_evidence(
        context(), here, PARAMS, BUILT.model_copy(update={"spec": here.recorded.spec}), done, timed, None
    )
    return conclude_audit(here, PARAMS, fresh, NIGHT)


def test_accuracy_that_is_lost_on_new_data_fails_with_the_figures() -> None:
    here = standing(evidence("e" * 64))

    found = judged(here, validated(0.3), Timed(timing=TIMING, over_champion=None))

    assert found.decision.verdict is Verdict.FAIL
    assert found.decision.reasons[0].startswith("accuracy: top1 drop >= 0.2900 (bound at 95%) exceeds max_drop 0.1000")
    assert found.finding is not None


def test_a_finding_is_remembered_with_what_its_release_became(tmp_path: Path) -> None:
    """A request counts until a release of that version has learnt something about that target."""
    registry = FakeRegistry()
    engine = register_engine(registry, tmp_path, NAME)
    registry.promote(NAME, engine.version, None, None)
    found = judged(standing(engine.evidence), validated(0.3), Timed(timing=TIMING, over_champion=None))

    assert registry.requested_release(found) is None
    registry.record_audit(found)
    assert registry.requested_release(found) is None, "recorded, but nothing was asked for"
    registry.record_audit(found.model_copy(update={"request": "event"}))
    asked = registry.requested_release(found)
    assert asked is not None
    assert (asked.first_asked, asked.ended) == (NIGHT, None)
    assert registry.version(NAME, "1").tags["slipway.audit"] == "FAIL"

    again = release(evidence(engine.digest, data_md5="new"))
    registry.record_release(again, {str(engine.digest): tmp_path / "engine.onnx"}, [])
    ended = registry.requested_release(found)
    assert ended is not None
    assert ended.ended is Verdict.PASS


def test_the_report_tells_then_and_now_and_the_way_back() -> None:
    here = standing(evidence("e" * 64))
    failed = judged(here, validated(0.3), Timed(timing=TIMING, over_champion=None)).model_copy(
        update={"follow_up": "a new release was asked for"}
    )
    none = Audit(name="digits.arm", at=NIGHT, decision=Decision(verdict=Verdict.SKIPPED, reasons=("no | champion",)))

    text = audit_markdown(AuditResult(audits=(failed, none)))

    assert text.startswith("# Audit of the champions: FAIL\n")
    assert "| digits.x86 | 1 | FAIL | 0.9800 | 0.9800 | +0.3100 | 2.00x | 2.00x | accuracy: top1 drop" in text
    assert r"| digits.arm | - | SKIPPED | - | - | - | - | - | no \| champion |" in text
    assert "- digits.x86: a new release was asked for\n" in text
    assert "`slipway rollback digits --target x86`" in text


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["PASS", "SKIPPED"], "PASS"),
        (["SKIPPED"], "SKIPPED"),
        ([], "SKIPPED"),
        (["PASS", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["INCONCLUSIVE", "FAIL", "PASS"], "FAIL"),
        (["FAIL", "ERROR", "PASS"], "ERROR"),
    ],
)
def test_the_worst_verdict_counts_and_skipped_only_alone(verdicts: list[str], expected: str) -> None:
    audits = tuple(Audit(name=NAME, at=NIGHT, decision=Decision(verdict=Verdict(one), reasons=())) for one in verdicts)

    assert AuditResult(audits=audits).verdict == expected


def test_an_audit_is_kept_as_json_that_reads_back() -> None:
    found = judged(standing(evidence("e" * 64)), validated(0.0), Timed(timing=TIMING, over_champion=None))
    text = canonical_json(found)

    assert Audit.model_validate_json(text) == found
    assert json.loads(text)["at"] == "2026-11-20T02:00:00Z"
    assert evidence_sha256(found.recorded) == evidence_sha256(evidence("e" * 64))  # type: ignore[arg-type]
