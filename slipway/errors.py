"""The one family of errors: each says what was asked, what was found, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class SlipwayError(Exception):
    """Root of every error Slipway raises on purpose; ends a command with ``exit_code``."""

    exit_code: ClassVar[int] = 5


class BadInputError(SlipwayError):
    """What the person gave cannot be used: a wrong key, URI, file or array."""

    exit_code = 2


class TamperedError(BadInputError):
    """Bytes on disk differ from those that were tracked or recorded."""


class UnsupportedError(SlipwayError):
    """A variant, form or engine makes no sense for this model or machine; the candidate is SKIPPED."""

    exit_code = 2


class RejectedError(SlipwayError):
    """A check said no: the candidate FAILs, or the promotion is refused."""

    exit_code = 3


class NotMeasuredError(SlipwayError):
    """A release's budget did not reach this far; the candidate is INCONCLUSIVE: more time would decide."""

    exit_code = 4


class InfrastructureError(SlipwayError):
    """A server, store, disk or process failed; nothing was learnt about the model."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    """What went wrong at the root of a chain of errors, in one line: the kind of error, unless it is one of ours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or ["no message"]
    if lines[0].startswith("The following operation failed in the TorchScript interpreter"):
        return lines[-1].strip()  # TorchScript tells its own stack first
    return lines[0].strip() if isinstance(error, SlipwayError) else f"{type(error).__name__}: {lines[0].strip()}"


def nearest(word: str, known: Iterable[str]) -> str:
    """``, did you mean 'X'?`` for the known word closest to a wrong one, to be put behind it; empty where none is."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
