"""The database that rollouts are kept in, SQLite or PostgreSQL: its tables, its transactions and its clock."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from slipway.errors import BadInputError, InfrastructureError

URL_VARIABLE = "SLIPWAY_ROLLOUTS_URL"
BUSY_SECONDS = 10
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10
_CREATING, _LABELLING = 7_523_001, 7_523_002  # keys of PostgreSQL's advisory locks
_RETRY_SECONDS = 0.05

METADATA = sql.MetaData()
_NUMBER = sql.BigInteger().with_variant(sql.Integer, "sqlite")  # SQLite counts up integers of this name alone


def _numbered() -> sql.Column[int]:
    return sql.Column("number", _NUMBER, primary_key=True, autoincrement=True)


def _text(name: str, **options: Any) -> sql.Column[str]:
    return sql.Column(name, sql.Text, nullable=False, **options)


def _seconds(name: str) -> sql.Column[float]:
    return sql.Column(name, sql.Double, nullable=False)


ROLLOUTS = sql.Table(
    "slipway_rollouts",
    METADATA,
    _numbered(),
    _text("rollout_id", unique=True),
    _text("name", index=True),
    _seconds("saved_s"),
    _text("body"),
)
HISTORY = sql.Table(
    "slipway_rollout_history",
    METADATA,
    _numbered(),
    _text("rollout_id", index=True),
    _seconds("saved_s"),
    _text("body"),
)
LEASES = sql.Table(
    "slipway_rollout_leases",
    METADATA,
    _text("name", primary_key=True),
    _text("owner"),
    sql.Column("token", sql.BigInteger, nullable=False),
    _seconds("expires_s"),
    _seconds("renewed_s"),
)
EVENTS = sql.Table(
    "slipway_rollout_events",
    METADATA,
    _numbered(),
    _text("rollout_id"),
    _text("kind"),
    _text("key"),
    _text("text"),
    _seconds("at_s"),
    sql.UniqueConstraint("rollout_id", "kind", "key"),
)
LABELS = sql.Table(
    "slipway_labels",
    METADATA,
    _numbered(),
    _text("name"),
    _text("request_id"),
    _text("classes"),
    _seconds("at_s"),
    sql.UniqueConstraint("name", "request_id"),
)


class Database:
    """Opens a connection for each transaction: none is left behind, and none is stale after the server restarted.

    ``place`` is the URL of a SQLite or PostgreSQL database, or the path of a SQLite file. ``clock`` tells the time
    where the database has no clock of its own: SQLite's users share the host's. Times are seconds since 1970.

    Raises:
        BadInputError: the URL names no database that rollouts can be kept in, or its driver is not installed.
    """

    def __init__(self, place: str | Path, clock: Callable[[], float] = time.time) -> None:
        self._url = _file(place) if isinstance(place, Path) else _checked(place)
        self._clock = clock
        self._engine = _engine(self._url)
        self._created = False

    @property
    def shown(self) -> str:
        """The URL without what is secret: its options may hold a password too."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def transaction(self, *, writes: bool) -> Iterator[sql.Connection]:
        """A connection inside a transaction, which ends with the block; the tables are there.

        Raises:
            InfrastructureError: the database cannot be reached, or did not do what was asked.
        """
        try:
            if not self._created:
                self._create()
                self._created = True
            with self._begun(writes=writes) as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self._failed(error) from error

    def now_s(self, connection: sql.Connection) -> float:
        """The time by the clock that all who use this database share."""
        if not self._is_postgresql:
            return self._clock()
        return float(connection.execute(sql.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def ahead_s(self, connection: sql.Connection) -> float:
        """By how much that clock is ahead of this host's."""
        return self.now_s(connection) - self._clock() if self._is_postgresql else 0.0

    def in_order(self, connection: sql.Connection) -> None:
        """Wait for whoever imports labels now: a reader never finds a number below one that it has read."""
        if self._is_postgresql:
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LABELLING)))

    @property
    def _is_postgresql(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def _begun(self, *, writes: bool) -> Iterator[sql.Connection]:
        with self._engine.connect().execution_options(writes=writes) as connection, connection.begin():
            if self._is_postgresql:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
            yield connection

    def _create(self) -> None:
        """Create the tables that are missing, whoever else does the same now."""
        if not self._is_postgresql:
            Path(str(self._url.database)).parent.mkdir(parents=True, exist_ok=True)
            self._use_wal()
        with self._begun(writes=True) as connection:
            if self._is_postgresql:
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_CREATING)))
            METADATA.create_all(connection)

    def _use_wal(self) -> None:
        """Let readers and a writer work side by side; of two who ask for it at once, SQLite refuses one at once."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with closing(self._engine.raw_connection()) as raw, closing(raw.cursor()) as cursor:
                    cursor.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def _failed(self, error: Exception) -> InfrastructureError:
        found = " ".join(str(getattr(error, "orig", None) or error).split())[:400]
        if self._url.password:
            found = found.replace(str(self._url.password), "***")
        if self._is_postgresql:
            todo = f"check that the server is up and {URL_VARIABLE} is right"
        elif "locked" in found:
            todo = f"another process has held it for {BUSY_SECONDS} s; see which one has it open"
        else:
            todo = f"it has to be Slipway's own, in a directory that can be written to; else set {URL_VARIABLE}"
        return InfrastructureError(f"the store of rollouts {self.shown} failed: {found}; {todo}")


def insert_new(connection: sql.Connection, table: sql.Table, values: dict[str, Any]) -> bool:
    """Insert a row, unless one of the same key is there; whether it was inserted."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    wanted = insert(table).values(values).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(wanted).first() is not None


def _checked(url: str) -> sql.URL:
    todo = "give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        parsed = sql.make_url(url)
    except (ArgumentError, ValueError):
        # The URL stays untold, and the cause with it: there is no telling which part of it is a password.
        raise BadInputError(f"{URL_VARIABLE} is no URL of a database; {todo}") from None
    kind = parsed.get_backend_name()
    if kind in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise BadInputError(f"rollouts cannot be kept in {kind!r}; {todo}")
    if parsed.database in {None, "", ":memory:"}:
        raise BadInputError(f"rollouts have to outlive this process, and {url!r} does not; {todo}")
    return _file(Path(str(parsed.database)))


def _file(path: Path) -> sql.URL:
    return sql.URL.create("sqlite", database=str(path.absolute()))


def _engine(url: sql.URL) -> sql.Engine:
    if url.get_backend_name() == "postgresql":
        # A server that vanished without a word is noticed in seconds, not after the kernel's quarter of an hour.
        seconds = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 1000 * STATEMENT_SECONDS}
        try:
            return sql.create_engine(url, poolclass=NullPool, connect_args=seconds)
        except ImportError as error:
            raise BadInputError(
                "the driver of PostgreSQL is not installed; install it: pip install 'slipway[postgres]'"
            ) from error
    engine = sql.create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
    sql.event.listen(engine, "connect", _leave_transactions_to_us)
    sql.event.listen(engine, "begin", _begin)
    return engine


def _leave_transactions_to_us(raw: Any, _: object) -> None:
    raw.isolation_level = None


def _begin(connection: sql.Connection) -> None:
    """Lock at once what is going to be written: a reader that turns writer is refused without waiting its turn."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
