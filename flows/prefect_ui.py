"""What a person sees of a run in Prefect's UI, beside the states of its tasks; nothing of it can fail a run."""

from __future__ import annotations

import contextvars
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import MissingContextError

from slipway.records import ReleaseResult
from slipway.reports.summary import candidate_table, markdown, verdicts
from slipway.steps.progress import LOGGER, Event
from slipway.wiring import Workshop
from tasks.links import link, pages

PROGRESS_SECONDS = 5.0


def key_of(*words: str) -> str:
    """The key of an artifact, of the letters that Prefect takes."""
    return re.sub("[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def unharmed(show: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What ``show`` gives; None, and a line in the run's log, where that fails."""
    try:
        return show(*args, **named)
    except Exception as error:  # noqa: BLE001 - whatever it is, the work itself goes on
        why = f"this is not shown ({show.__name__}): {error}"
        with_logger(lambda logger: logger.warning(why))
        return None


def with_logger(told: Callable[[Any], object]) -> None:
    """Call ``told`` with the logger of the flow run, if there is one."""
    try:
        logger = get_run_logger()
    except MissingContextError:
        return
    told(logger)


class Progress:
    """A bar in Prefect's UI."""

    def __init__(self, key: str, description: str) -> None:
        self._id: UUID | None = unharmed(create_progress_artifact, 0.0, key=key, description=description)

    def set(self, percent: float) -> None:
        """Move the bar."""
        if self._id is not None:
            unharmed(update_progress_artifact, self._id, percent)


def show_release(result: ReleaseResult, shop: Workshop) -> None:
    """A table of all candidates, and the verdict with its links to MLflow; MLflow's run links back to this one."""
    done, run_id = result.release, result.recorded.run_id
    name, uri = done.model.name, done.model.uri
    unharmed(link, shop.registry, run_id)
    found = unharmed(pages, shop.registry, run_id) or {}
    links = "".join(f"- [{title}]({address})\n" for title, address in found.items()) or f"- {shop.look}, run {run_id}\n"
    ended = "".join(f"- {line}\n" for line in verdicts(result))
    unharmed(
        create_table_artifact,
        candidate_table(done),
        key=key_of("candidates", name),
        description=f"Candidates of {uri}",
    )
    unharmed(
        create_markdown_artifact,
        f"{markdown(done)}\n## Recorded\n\n{links}\n{ended}",
        key=key_of("release", name),
        description=f"Release of {uri}",
    )


@contextmanager
def heard() -> Iterator[None]:
    """Tell the progress of the block in the log of the flow run, and draw the long steps' as bars."""
    listener = _Listener(get_run_logger())
    level, LOGGER.propagate = LOGGER.level, False  # or a worker would print every line twice
    LOGGER.addHandler(listener)
    LOGGER.setLevel(logging.INFO)
    # In the context of this run, to which the bars belong.
    painting = contextvars.copy_context().run
    painter = threading.Thread(target=painting, args=(listener.paint,), name="progress in Prefect", daemon=True)
    painter.start()
    try:
        yield
    finally:
        LOGGER.removeHandler(listener)
        LOGGER.setLevel(level)
        LOGGER.propagate = True
        listener.ended.set()
        painter.join(PROGRESS_SECONDS)


class _Listener(logging.Handler):
    """Takes events as they come, and never waits for the server while a step does."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self.ended = threading.Event()
        self._logger = logger
        self._shares: dict[str, float] = {}
        self._bars: dict[str, Progress] = {}

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if not isinstance(event, Event):
            return
        what = f"{event.step} {event.line}"
        if event.share is not None:
            self._shares[what] = 100 * event.share
            return
        if event.status != "running" and what in self._shares:
            self._shares[what] = 100.0
        self._logger.info(record.getMessage())

    def paint(self) -> None:
        """Move the bars every few seconds, until ``ended``."""
        drawn: dict[str, float] = {}
        last = False
        while not last:
            last = self.ended.wait(PROGRESS_SECONDS)
            for what, percent in list(self._shares.items()):
                if drawn.get(what) == percent:
                    continue
                drawn[what] = percent
                if what not in self._bars:
                    self._bars[what] = Progress(key_of("progress", what), what)
                self._bars[what].set(percent)
