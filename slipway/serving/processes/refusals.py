"""Why an engine is not served, as one process tells the other, and under which word it is counted."""

from __future__ import annotations

from slipway import errors
from slipway.errors import (
    InfrastructureError,
    RejectedError,
    SlipwayError,
    TamperedError,
    UnsupportedError,
    first_line,
)
from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.processes.messages import Refused

OUTCOMES: tuple[tuple[type[SlipwayError], str], ...] = (
    (TamperedError, "tampered"),
    (UnsupportedError, "unsupported"),
    (RejectedError, "parity"),
    (InfrastructureError, "failed"),
)


def outcome_of(error: Exception) -> str:
    """The word under which it is counted that an engine did not take another's place."""
    if not isinstance(error, SlipwayError):
        return "failed"
    return next((outcome for kind, outcome in OUTCOMES if isinstance(error, kind)), "refused")


def refusal_of(order: int, error: Exception) -> Refused:
    """What is said of an engine that could not be opened."""
    told = str(error) if isinstance(error, SlipwayError) else first_line(error)
    return Refused(order=order, kind=type(error).__name__, error=told)


def error_of(refused: Refused, engine: LocalEngine) -> SlipwayError:
    """The error that the other process met, of its own class where that is one of Slipway's."""
    kind = getattr(errors, refused.kind, None)
    if isinstance(kind, type) and issubclass(kind, SlipwayError):
        return kind(refused.error)
    return InfrastructureError(f"{engine} could not be opened: {refused.error}")
