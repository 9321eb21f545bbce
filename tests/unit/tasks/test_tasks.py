"""Tasks are policy around one library call: here that call alone, without Prefect's engine."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from slipway.config import ApprovalParams, CalibrationParams
from slipway.decisions.approval import Word
from slipway.engines.base import BuildOptions
from slipway.records import CandidateSpec, Form, Predictions, VariantFile, Verdict
from slipway.reports.summary import markdown
from slipway.steps.promote import Today
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import RegisteredEngine
from tasks.benchmark import benchmark, find_champion
from tasks.build import build
from tasks.promote import decide, promote
from tasks.quantize import quantize
from tasks.register import register
from tasks.report import report
from tasks.validate import validate
from tests.fakes.evidence import DATA_MD5, HARDWARE, SIGNATURE, evidence, release
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.records import ACCURACY, BUILT, artifact, context, failed
from tests.unit.steps.registered import register_engine

SPEC = CandidateSpec(target="x86", variant="bf16", engine="openvino")
OPTIONS = BuildOptions(variant="int8-static", signature=SIGNATURE)
EARLIER = failed("export")


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def engine(tmp_path: Path) -> tuple[FakeRegistry, RegisteredEngine]:
    registry = FakeRegistry()
    return registry, register_engine(registry, tmp_path, "digits.x86")


def test_an_earlier_failure_goes_through_all_steps_of_a_candidate(objects: ObjectStore) -> None:
    """No process is started, no file read: none of these exists."""
    bound = context()
    reference = Predictions(artifact=artifact("9"), metric="top1", value=0.9, n=10)

    made = quantize.fn(objects, bound.model, Form.ONNX, EARLIER, "bf16", bound.data, None, CalibrationParams())
    built = build.fn(objects, SPEC, made, OPTIONS, BUILT, bound.data)
    done = validate.fn(objects, SPEC, built, bound.data, reference, ACCURACY, 1)

    assert (made, built, done) == (EARLIER, EARLIER, EARLIER)


def test_a_definite_no_of_a_step_in_its_process_is_a_failure(objects: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"bytes")
    variant = {"variant": "int8-static", "form": Form.PROGRAM, "artifact": objects.put(file)}
    built = build.fn(
        objects,
        CandidateSpec(target="x86", variant="int8-static", engine="torch"),
        VariantFile.model_validate(variant),
        OPTIONS,
        BUILT,
        context().data,
    )

    assert built.step == "build"  # type: ignore[union-attr]
    assert built.decision.verdict is Verdict.SKIPPED  # type: ignore[union-attr]


def test_approval_decides_between_champion_and_challenger(engine: tuple[FakeRegistry, RegisteredEngine]) -> None:
    registry, _ = engine

    promote.fn(registry, "digits.x86", "1", DATA_MD5, ApprovalParams(required=True))
    assert registry.aliases("digits.x86") == {"challenger": "1"}

    promote.fn(registry, "digits.x86", "1", DATA_MD5, ApprovalParams())
    assert registry.aliases("digits.x86") == {"challenger": "1"}, "it waits for a person, as was asked first"


def test_without_approval_the_gates_promote(engine: tuple[FakeRegistry, RegisteredEngine]) -> None:
    registry, _ = engine

    promote.fn(registry, "digits.x86", "1", DATA_MD5, ApprovalParams())
    assert registry.aliases("digits.x86") == {"champion": "1"}


def test_a_persons_word(engine: tuple[FakeRegistry, RegisteredEngine]) -> None:
    registry, _ = engine

    decide.fn(registry, "digits.x86", "1", "reject", Word(person="ada", reason="no"), Today())
    assert registry.version("digits.x86", "1").tags["slipway.decision"] == "rejected"

    decide.fn(registry, "digits.x86", "1", "approve", Word(person="ada", reason="after all"), Today())
    assert registry.champion("digits.x86") == "1"


def test_register_and_find_the_champion(engine: tuple[FakeRegistry, RegisteredEngine], objects: ObjectStore) -> None:
    registry, registered = engine
    registry.promote("digits.x86", "1", None, None)

    champion = find_champion.fn(registry, objects, "digits.x86", HARDWARE, [])
    assert champion is not None
    assert champion.artifact.digest == registered.digest
    done = release(evidence(None, timing=None), model="other")
    assert register.fn(registry, objects, done, (), ()).versions == {}


def test_the_report_is_the_one_of_the_library(objects: ObjectStore) -> None:
    done = release(evidence("1" * 64))

    assert objects.path(report.fn(objects, done)[0]).read_text(encoding="utf-8") == markdown(done)


def test_the_hardware_is_part_of_the_key_of_a_benchmark() -> None:
    """Otherwise figures of another machine could come back from a shared result store."""
    assert "hardware" in inspect.signature(benchmark.fn).parameters
