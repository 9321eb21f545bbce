"""What becomes of every task, told as progress."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from slipway.records import Failure, Verdict
from slipway.steps.progress import Event, tell

_HEARD: set[tuple[object, str, str]] = set()  # flow run, line and step of every Failure that was told


def on_change(task: Any, run: Any, state: State[Any]) -> None:
    """State hook of every task; its run's name is ``STEP LINE``."""
    line = run.name.partition(" ")[2]
    if state.is_running():
        tell(Event(line, task.name, "running"))
    elif state.is_failed():
        cause = state.result(raise_on_failure=False)
        # What is raised only to be kept out of the cache says itself what it is.
        tell(Event(line, task.name, getattr(cause, "told_as", Verdict.of_error(cause)), str(cause)))
    elif state.is_completed():
        outcome = state.result(raise_on_failure=False)
        if isinstance(outcome, Failure):
            # Steps hand on the Failure of an earlier one; a line that shares this one with others hears of it once.
            heard = (run.flow_run_id, line, outcome.step)
            if outcome.step == task.name or heard not in _HEARD:
                tell(Event(line, outcome.step, outcome.decision.verdict, outcome.decision.reasons[0]))
            _HEARD.add(heard)
        else:
            tell(Event(line, task.name, "cached" if state.name == "Cached" else "done"))
