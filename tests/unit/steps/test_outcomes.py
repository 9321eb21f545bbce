from __future__ import annotations

import pytest

from slipway.errors import BadInputError, InfrastructureError, RejectedError, TamperedError, UnsupportedError
from slipway.records import Verdict
from slipway.steps.outcomes import definite, failure
from tests.unit.steps.records import failed


def step(value: object, *, error: Exception | None = None) -> object:
    if error is not None:
        raise error
    return value


def test_a_result_passes_through() -> None:
    assert definite(step)("a result") == "a result"
    assert definite(step).__name__ == "step"


@pytest.mark.parametrize(
    ("error", "verdict"), [(UnsupportedError("no"), Verdict.SKIPPED), (RejectedError("no"), Verdict.FAIL)]
)
def test_a_definite_no_is_a_result(error: Exception, verdict: Verdict) -> None:
    assert definite(step)("a result", error=error) == failed("step", verdict, "no")


@pytest.mark.parametrize("kind", [BadInputError, TamperedError, InfrastructureError, RuntimeError])
def test_anything_else_still_raises(kind: type[Exception]) -> None:
    """So that a retry may follow, and nothing of it is cached."""
    with pytest.raises(kind):
        definite(step)("a result", error=kind("broken"))


@pytest.mark.parametrize("call", [lambda f, s: f(s), lambda f, s: f(value=s)], ids=["by position", "by name"])
def test_a_failure_of_the_step_before_is_handed_on_without_running_this_one(call: object) -> None:
    earlier = failed("export")

    def never(value: object) -> object:
        raise AssertionError("it ran")

    assert call(definite(never), earlier) is earlier  # type: ignore[operator]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (UnsupportedError("why"), Verdict.SKIPPED),
        (RejectedError("why"), Verdict.FAIL),
        (InfrastructureError("why"), Verdict.ERROR),
        (BadInputError("why"), Verdict.ERROR),
        (ValueError("why"), Verdict.ERROR),
    ],
)
def test_an_error_decides_the_verdict(error: Exception, verdict: Verdict) -> None:
    assert failure("build", error) == failed("build", verdict, "why")
