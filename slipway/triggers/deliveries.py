"""The deliveries that were taken, kept in SQLite until Prefect has what follows from them, and 30 days more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from slipway.errors import InfrastructureError
from slipway.records import ReleaseRequest
from slipway.triggers.decide import Asked, RolloutRequest

KEPT_SECONDS = 30 * 86400.0
BUSY_SECONDS = 5.0  # well below the 30 s after which MLflow gives up on an answer
AT_ONCE = 100

_TABLE = """
CREATE TABLE IF NOT EXISTS deliveries (
    delivery_id TEXT PRIMARY KEY,
    received_s REAL NOT NULL,
    sender TEXT NOT NULL,
    body BLOB NOT NULL,
    kind TEXT,
    request TEXT,
    key TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    event_id TEXT,
    asked_s REAL,
    done_s REAL,
    ending TEXT
)"""
_PENDING = "CREATE INDEX IF NOT EXISTS pending ON deliveries (attempts, received_s) WHERE done_s IS NULL"
_KINDS: dict[str, type[Asked]] = {"release": ReleaseRequest, "rollout": RolloutRequest}


@dataclass(frozen=True)
class Delivery:
    """One delivery; ``asked`` is None where it could not be decided yet what follows.

    ``event_id`` and ``asked_s`` are those of the last time that Prefect was asked, if it was. Times are Unix seconds.
    """

    delivery_id: str
    received_s: float
    sender: str
    body: bytes
    asked: Asked | None = None
    key: str | None = None
    event_id: UUID | None = None
    asked_s: float | None = None


@dataclass(frozen=True)
class Standing:
    """How many deliveries wait, since when the oldest does, and when the last one came; in Unix seconds."""

    pending: int
    oldest_s: float | None
    last_s: float | None


class Deliveries:
    """The store in ``file``, which may be used from several threads and processes.

    Every method raises InfrastructureError where the file cannot be read or written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def keep(self, delivery: Delivery) -> bool:
        """Store a delivery, on the disk when this returns; False where one of that id is there already."""
        kind, request = _spelt(delivery.asked)
        with self._transaction() as connection:
            found = connection.execute(
                "INSERT INTO deliveries (delivery_id, received_s, sender, body, kind, request, key) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    delivery.delivery_id,
                    delivery.received_s,
                    delivery.sender,
                    delivery.body,
                    kind,
                    request,
                    delivery.key,
                ),
            )
            return found.rowcount == 1

    def seen(self, delivery_id: str) -> bool:
        """Whether one of that id was stored."""
        query = "SELECT 1 FROM deliveries WHERE delivery_id = ?"
        with self._transaction(writes=False) as connection:
            return connection.execute(query, (delivery_id,)).fetchone() is not None

    def pending(self) -> list[Delivery]:
        """Those that Prefect does not have yet; what failed often comes last, so that it holds up nothing else."""
        with self._transaction(writes=False) as connection:
            rows = connection.execute(
                "SELECT delivery_id, received_s, sender, body, kind, request, key, event_id, asked_s FROM deliveries "
                "WHERE done_s IS NULL ORDER BY attempts, received_s LIMIT ?",
                (AT_ONCE,),
            ).fetchall()
        return [_delivery(row) for row in rows]

    def decided(self, delivery_id: str, asked: Asked, key: str) -> None:
        """Keep what follows from a delivery that could not be decided on when it came."""
        kind, request = _spelt(asked)
        self._set(delivery_id, kind=kind, request=request, key=key)

    def failed(self, delivery_id: str) -> None:
        """Count an attempt that failed."""
        with self._transaction() as connection:
            connection.execute("UPDATE deliveries SET attempts = attempts + 1 WHERE delivery_id = ?", (delivery_id,))

    def asked(self, delivery_id: str, event_id: UUID, now_s: float) -> None:
        """Prefect was asked, and has yet to show that it has the event."""
        self._set(delivery_id, event_id=str(event_id), asked_s=now_s)

    def done(self, delivery_id: str, ending: str, now_s: float) -> None:
        """Nothing is left to do, for the reason ``ending``."""
        self._set(delivery_id, done_s=now_s, ending=ending)

    def standing(self) -> Standing:
        """How much waits."""
        query = "SELECT COUNT(*), MIN(received_s) FROM deliveries WHERE done_s IS NULL"
        with self._transaction(writes=False) as connection:
            pending, oldest_s = connection.execute(query).fetchone()
            (last_s,) = connection.execute("SELECT MAX(received_s) FROM deliveries").fetchone()
        return Standing(pending, oldest_s, last_s)

    def prune(self, now_s: float) -> int:
        """Forget what was done long ago; how many deliveries."""
        query = "DELETE FROM deliveries WHERE done_s IS NOT NULL AND received_s < ?"
        with self._transaction() as connection:
            return connection.execute(query, (now_s - KEPT_SECONDS,)).rowcount

    def _set(self, delivery_id: str, **values: Any) -> None:
        columns = ", ".join(f"{name} = ?" for name in values)
        with self._transaction() as connection:
            query = f"UPDATE deliveries SET {columns} WHERE delivery_id = ?"  # noqa: S608 - names of this module's own
            connection.execute(query, (*values.values(), delivery_id))

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection of its own, so that a file that failed once is opened anew."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")  # an answer says that it is kept: also after a power cut
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'pending'").fetchone() is None:
                    connection.execute(_TABLE)
                    connection.execute(_PENDING)
                connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise InfrastructureError(
                f"the deliveries in {self._file} cannot be kept: {error}; look at the disk's room, at who may write "
                "there, and at who else has the file open"
            ) from error


def _spelt(asked: Asked | None) -> tuple[str | None, str | None]:
    for kind, record in _KINDS.items():
        if isinstance(asked, record):
            return kind, asked.model_dump_json()
    return None, None


def _delivery(row: tuple[Any, ...]) -> Delivery:
    delivery_id, received_s, sender, body, kind, request, key, event_id, asked_s = row
    asked = None if kind is None else _KINDS[kind].model_validate_json(request)
    return Delivery(
        delivery_id, received_s, sender, body, asked, key, None if event_id is None else UUID(event_id), asked_s
    )
