from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from slipway.errors import BadInputError, InfrastructureError, RejectedError, TamperedError, UnsupportedError
from slipway.records import (
    Built,
    CandidateSpec,
    Decision,
    Evidence,
    Failure,
    Recorded,
    Release,
    ReleaseResult,
    Verdict,
)
from tests.fakes.evidence import evidence, release

SPEC = CandidateSpec(target="x86", variant="bf16", engine="openvino")


@pytest.mark.parametrize(
    ("verdict", "exit_code"),
    [("PASS", 0), ("FAIL", 3), ("SKIPPED", 3), ("INCONCLUSIVE", 4), ("ERROR", 5)],
)
def test_each_verdict_has_its_exit_code(verdict: str, exit_code: int) -> None:
    assert Verdict(verdict).exit_code == exit_code
    assert f"{Verdict(verdict)}" == verdict


@pytest.mark.parametrize(
    ("error", "exit_code", "verdict"),
    [
        (BadInputError("x"), 2, Verdict.ERROR),
        (TamperedError("x"), 2, Verdict.ERROR),
        (UnsupportedError("x"), 2, Verdict.SKIPPED),
        (RejectedError("x"), 3, Verdict.FAIL),
        (InfrastructureError("x"), 5, Verdict.ERROR),
    ],
)
def test_each_error_has_its_exit_code_and_verdict(
    error: BadInputError | UnsupportedError | RejectedError | InfrastructureError, exit_code: int, verdict: Verdict
) -> None:
    assert (error.exit_code, Verdict.of_error(error)) == (exit_code, verdict)


def test_what_is_not_slipways_is_an_error() -> None:
    assert Verdict.of_error(KeyError("x")) is Verdict.ERROR


def test_a_candidate_is_told_as_tables_show_it() -> None:
    assert str(SPEC) == "bf16/openvino"


def test_records_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        SPEC.target = "arm"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        CandidateSpec.model_validate({**SPEC.model_dump(), "extra": 1})


@pytest.mark.parametrize("record", [evidence("1" * 64), release(evidence("1" * 64), evidence(None, timing=None))])
def test_records_survive_json(record: Evidence | Release) -> None:
    assert type(record).model_validate_json(record.model_dump_json()) == record


def test_a_failure_is_never_read_as_a_result() -> None:
    """A cached outcome is either; each reads back as itself."""
    adapter: TypeAdapter[Built | Failure] = TypeAdapter(Built | Failure)
    failed = Failure(step="build", decision=Decision(verdict=Verdict.FAIL, reasons=("no",)))

    assert adapter.validate_json(failed.model_dump_json()) == failed


@pytest.mark.parametrize(
    ("outcomes", "promotions", "worst"),
    [
        (["PASS"], ["PASS"], "PASS"),
        (["PASS"], [], "PASS"),
        (["PASS"], ["FAIL"], "FAIL"),
        (["PASS", "INCONCLUSIVE"], ["PASS"], "INCONCLUSIVE"),
        (["INCONCLUSIVE", "SKIPPED"], [], "SKIPPED"),
        (["SKIPPED", "FAIL"], [], "FAIL"),
        (["FAIL", "ERROR", "PASS"], [], "ERROR"),
    ],
)
def test_a_release_is_as_good_as_its_worst_target(outcomes: list[str], promotions: list[str], worst: str) -> None:
    plain = release(evidence("1" * 64))
    (one,) = plain.targets
    targets = tuple(one.model_copy(update={"decision": _decision(verdict)}) for verdict in outcomes)
    result = ReleaseResult(
        release=plain.model_copy(update={"targets": targets}),
        recorded=Recorded(run_id="r", versions={}),
        promotions={str(number): _decision(verdict) for number, verdict in enumerate(promotions)},
    )

    assert result.verdict is Verdict(worst)


def _decision(verdict: str) -> Decision:
    return Decision(verdict=Verdict(verdict), reasons=("why",))
