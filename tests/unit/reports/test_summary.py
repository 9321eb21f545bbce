from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.records import Decision, Evidence, Interval, Recorded, Release, ReleaseResult, Verdict
from slipway.reports.summary import (
    HEADINGS,
    TABLE_HEADINGS,
    candidate_json,
    candidate_row,
    candidate_table,
    markdown,
    reference_row,
    release_json,
    verdicts,
)
from tests.fakes.evidence import HARDWARE, TIMING, evidence, release
from tests.unit.steps.records import MEASURED, PARITY, timing

FAILED = Decision(verdict=Verdict.FAIL, reasons=("build: no such operator",))
GATES = {
    "accuracy": Decision(verdict=Verdict.PASS, reasons=("drop within",)),
    "size_mb": Decision(verdict=Verdict.FAIL, reasons=("too large", "by far")),
}
MEASURED_EVIDENCE = evidence(
    "1" * 64,
    accuracy=MEASURED,
    parity=PARITY,
    timing=timing(),
    executed_precision={"int8": 3},
    calibration_md5="c" * 32,
    size_bytes=1_500_000,
    gates=GATES,
    notes=("2 of 2 Conv in int8",),
)
UNMEASURED = evidence(
    None,
    accuracy=None,
    timing=None,
    size_bytes=None,
    engine_version=None,
    options={},
    gates={"build": FAILED},
    decision=FAILED,
    spec=MEASURED_EVIDENCE.spec.model_copy(update={"variant": "bf16"}),
)


@pytest.fixture
def done() -> Release:
    """A release with one measured, chosen candidate and one that was never built."""
    plain = release(MEASURED_EVIDENCE, UNMEASURED)
    (outcome,) = plain.targets
    chosen = outcome.model_copy(
        update={
            "chosen": "1" * 64,
            "decision": Decision(verdict=Verdict.PASS, reasons=("fp32/onnxruntime is best", "nothing is tied")),
        }
    )
    return plain.model_copy(update={"targets": (chosen,)})


def keys(value: dict[str, Any]) -> list[str]:
    return list(value)


def test_the_object_that_release_prints_is_the_contract(done: Release) -> None:
    """The keys and their order are those of the design, section 3."""
    printed = json.loads(json.dumps(release_json(done, {"x86": "models:/digits.x86/1"}, seconds=12.3456)))

    assert keys(printed) == ["model", "model_sha256", "data_md5", "code_revision", "seconds", "targets"]
    assert [printed[key] for key in keys(printed)[:5]] == [
        "models:/digits/1",
        "a" * 64,
        done.data_md5,
        "c0ffee",
        12.35,
    ]
    assert keys(printed["targets"]) == ["x86"]
    target = printed["targets"]["x86"]
    assert keys(target) == ["verdict", "reasons", "chosen", "hardware", "reference", "candidates"]
    assert (target["verdict"], target["chosen"]) == ("PASS", "1" * 64)
    assert target["reasons"] == ["fp32/onnxruntime is best", "nothing is tied"]
    assert target["hardware"]["fingerprint"] == HARDWARE.fingerprint
    assert target["reference"] == {"metric": "top1", "value": 0.981, "latency_p50_ms": 1.0, "latency_p99_ms": None}
    assert len(target["candidates"]) == 2, "those that failed too"


def test_a_measured_candidate_as_json(done: Release) -> None:
    printed = json.loads(json.dumps(release_json(done, {"x86": "models:/digits.x86/1"}, 1)))

    assert printed["targets"]["x86"]["candidates"][0] == {
        "digest": "1" * 64,
        "variant": "fp32",
        "engine": "onnxruntime",
        "options": {"opset": 20},
        "verdict": "PASS",
        "reasons": ["drop 0.001 <= 0.010"],
        "size_bytes": 1_500_000,
        "accuracy": {"value": 0.979, "drop": 0.001, "drop_upper": 0.004, "n": 1000},
        "parity": {"max_abs_diff": 0.25, "top1_agreement": 0.99},
        "latency": {"p50_ms": 1.0, "p90_ms": 1.5, "p99_ms": 3.0, "samples": 700},
        "throughput_per_s": {"1": 900.0, "8": 2000.0},
        "speedup": 2.0,
        "executed_precision": {"int8": 3},
        "registered": "models:/digits.x86/1",
    }


def test_what_was_not_measured_is_null_and_keeps_its_keys(done: Release) -> None:
    measured, unmeasured = release_json(done, {"x86": "models:/digits.x86/1"}, 1)["targets"]["x86"]["candidates"]  # type: ignore[index]

    assert keys(unmeasured) == keys(measured)
    assert unmeasured == {
        "digest": None,
        "variant": "bf16",
        "engine": "onnxruntime",
        "options": {},
        "verdict": "FAIL",
        "reasons": ["build: no such operator"],
        "size_bytes": None,
        "accuracy": None,
        "parity": None,
        "latency": None,
        "throughput_per_s": {},
        "speedup": None,
        "executed_precision": {},
        "registered": None,
    }


def test_only_the_chosen_candidate_is_registered(done: Release) -> None:
    (outcome,) = done.targets
    nothing = done.model_copy(update={"targets": (outcome.model_copy(update={"chosen": None}),)})
    printed: Any = release_json(nothing, {}, 1)

    assert printed["targets"]["x86"]["chosen"] is None
    assert [one["registered"] for one in printed["targets"]["x86"]["candidates"]] == [None, None]


def test_a_target_where_nothing_was_timed_has_no_latency_of_the_reference(done: Release) -> None:
    (outcome,) = done.targets
    untimed = outcome.model_copy(update={"reference_latency": None})
    printed: Any = release_json(done.model_copy(update={"targets": (untimed,)}), {}, 1)

    assert printed["targets"]["x86"]["reference"]["latency_p50_ms"] is None
    assert reference_row(untimed) == ("", "reference", "eager fp32", "0.9810", "", "-", "-", "1", "", "")


def test_rows_have_a_cell_per_heading(done: Release) -> None:
    (outcome,) = done.targets
    rows = [
        candidate_row(MEASURED_EVIDENCE, chosen=True),
        candidate_row(UNMEASURED, chosen=False),
        reference_row(outcome),
    ]

    assert rows == [
        ("►", "fp32", "onnxruntime", "0.9790", "+0.0040", "1.000", "3.000", "2.00x [1.80, 2.20]", "1.50", "PASS"),
        ("", "bf16", "onnxruntime", "-", "-", "-", "-", "-", "-", "FAIL"),
        ("", "reference", "eager fp32", "0.9810", "", "1.000", "-", "1", "", ""),
    ]
    assert {len(row) for row in rows} == {len(HEADINGS)}


def test_a_speed_up_that_is_none_is_told_plainly() -> None:
    slower = TIMING.model_copy(update={"speedup": Interval(value=0.5, lower=0.4, upper=0.6)})

    assert "0.50x [0.40, 0.60]" in candidate_row(evidence("1" * 64, timing=slower), chosen=False)


def test_the_report(done: Release) -> None:
    lines = markdown(done).splitlines()

    assert lines[0] == "# Release of models:/digits/1"
    assert f"- model sha256 `{'a' * 64}`" in lines
    assert f"- test data md5 `{done.data_md5}`, metric top1" in lines
    assert "- code revision `c0ffee`" in lines
    assert "## Target x86: PASS" in lines
    assert "- fp32/onnxruntime is best" in lines
    assert "- measured on cpu, 2 cores" in lines
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert {line.count("|") for line in table} == {len(HEADINGS) + 1}, "a table is drawn only where all lines agree"
    assert table[3].startswith("| ► | fp32 | onnxruntime | 0.9790 |")
    assert lines[-1] == "- bf16/onnxruntime: build: no such operator"
    assert not any("fp32/onnxruntime: " in line for line in lines), "what passed needs no reasons"


def test_evidence_from_a_registry_prints_without_a_registration() -> None:
    found: Evidence = evidence("2" * 64)

    assert candidate_json(found, None)["registered"] is None
    assert candidate_json(found, None)["parity"] is None


def test_all_candidates_as_one_table_by_column(done: Release) -> None:
    first, second = candidate_table(done)

    assert list(first) == [*TABLE_HEADINGS, "target", "reasons"]
    assert (first["chosen"], first["target"], first["engine"], first["p99 ms"]) == ("►", "x86", "onnxruntime", "3.000")
    assert (second["verdict"], second["reasons"]) == ("FAIL", "build: no such operator")


def test_how_a_release_ended_in_a_line_per_target(done: Release) -> None:
    recorded = Recorded(run_id="r", versions={})
    plain = ReleaseResult(release=done, recorded=recorded, promotions={})
    refused = {"x86": Decision(verdict=Verdict.FAIL, reasons=("rejected before",))}

    assert verdicts(plain) == ["x86 PASS: fp32/onnxruntime is best; nothing is tied"]
    assert verdicts(plain.model_copy(update={"promotions": refused})) == [
        "x86 FAIL: fp32/onnxruntime is best; nothing is tied; rejected before"
    ]
