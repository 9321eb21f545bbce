"""Progress as structured log records on the logger ``slipway.progress``; whoever listens draws them."""

from __future__ import annotations

import logging
from typing import Any

from prefect.client.schemas.objects import State

from slipway.records import Failure

logger = logging.getLogger("slipway.progress")


def tell(line: str, step: str, status: str, detail: str = "") -> None:
    """One event about ``line`` (a candidate, or a shared step); ``status`` is running, done, cached or a verdict."""
    logger.info(
        "%s: %s %s%s",
        line,
        step,
        status,
        f" ({detail})" if detail else "",
        extra={"event": (line, step, status, detail)},
    )


def on_change(task: Any, run: Any, state: State[Any]) -> None:
    """State hook of every task; its run's name is ``STEP LINE``."""
    line = run.name.partition(" ")[2]
    if state.is_running():
        tell(line, task.name, "running")
    elif state.is_failed():
        cause = state.result(raise_on_failure=False)
        tell(line, task.name, "ERROR", str(cause))
    elif state.is_completed():
        outcome = state.result(raise_on_failure=False)
        if isinstance(outcome, Failure):
            tell(line, outcome.step, outcome.decision.verdict, outcome.decision.reasons[0])
        else:
            tell(line, task.name, "cached" if state.name == "Cached" else "done")
