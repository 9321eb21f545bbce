"""A transaction that is held up when all of it is done but its commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sql

from slipway.rollout.store.rollouts import RolloutStore

WAIT_SECONDS = 60.0


@contextmanager
def held_before_commit(store: RolloutStore) -> Iterator[threading.Event]:
    """Inside the block the store's commits wait; the event tells that one does."""
    reached, go_on = threading.Event(), threading.Event()
    store.all_latest()  # the tables are there

    def hold(_: sql.Connection) -> None:
        reached.set()
        go_on.wait(WAIT_SECONDS)

    sql.event.listen(store._database._engine, "commit", hold)
    try:
        yield reached
    finally:
        go_on.set()
