"""An error's cause is told in one line."""

from __future__ import annotations

import pytest

from slipway.errors import BadInputError, RejectedError, first_line

SCRIPT = (
    "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript:\nRuntimeError: no kernel"
)


def chained(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n one \ntwo"), "ValueError: one"),
        (KeyError("a"), "KeyError: 'a'"),
        (AssertionError(), "AssertionError: no message"),
        (BadInputError("no such file"), "no such file"),
        (chained(RejectedError("told twice"), OSError("disk full")), "OSError: disk full"),
        (RuntimeError(SCRIPT), "RuntimeError: no kernel"),
    ],
)
def test_the_root_of_the_chain_is_told_in_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line
