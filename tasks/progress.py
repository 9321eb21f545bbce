"""What becomes of every task, told as progress."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from slipway.records import Failure, Verdict
from slipway.steps.progress import Event, tell


def on_change(task: Any, run: Any, state: State[Any]) -> None:
    """State hook of every task; its run's name is ``STEP LINE``."""
    line = run.name.partition(" ")[2]
    if state.is_running():
        tell(Event(line, task.name, "running"))
    elif state.is_failed():
        cause = state.result(raise_on_failure=False)
        tell(Event(line, task.name, Verdict.of_error(cause), str(cause)))
    elif state.is_completed():
        outcome = state.result(raise_on_failure=False)
        if isinstance(outcome, Failure):
            tell(Event(line, outcome.step, outcome.decision.verdict, outcome.decision.reasons[0]))
        else:
            tell(Event(line, task.name, "cached" if state.name == "Cached" else "done"))
