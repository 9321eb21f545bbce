"""Where rollouts are kept: each state before it is applied, who controls them, what happened, and the labels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sql
from pydantic import ValidationError

import slipway
from slipway.errors import BadInputError, InfrastructureError, nearest
from slipway.records.rollout import Rollout
from slipway.rollout.store.database import EVENTS, HISTORY, LABELS, LEASES, ROLLOUTS, Database, insert_new
from slipway.rollout.store.lease import Lease, acquire, refuse_if_held

Classes = tuple[int, ...]
_ASKED_AT_ONCE = 500
_TOLD_CONFLICTS = 3


class Saved(NamedTuple):
    """A state of a rollout, and when it was saved."""

    saved_s: float
    rollout: Rollout


class Heard(NamedTuple):
    """The newest rollout of a name, and the last sign of life of its controller: a renewed lease, or a saved state.

    ``sign_s`` is by the clock of the database, ``ahead_s`` by how much that one is ahead of this host's.
    """

    rollout: Rollout | None
    sign_s: float
    ahead_s: float = 0.0

    @property
    def alive_s(self) -> float:
        """The last sign of life by this host's clock."""
        return self.sign_s - self.ahead_s


class Event(NamedTuple):
    """Something that happened to a rollout."""

    kind: str
    key: str
    text: str
    at_s: float


class Label(NamedTuple):
    """What is right for each example of a request; ``number`` counts the labels as they came."""

    number: int
    request_id: str
    classes: Classes
    at_s: float


class RolloutStore:
    """Keeps rollouts in the SQLite or PostgreSQL database ``place``; connects, and makes its tables, at the first use.

    Every method raises InfrastructureError when the database cannot be reached. Times are seconds since 1970, by the
    database's clock.

    Raises:
        BadInputError: the URL names no database that rollouts can be kept in.
    """

    def __init__(self, place: str | Path, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(place, clock)
        self._held: dict[str, Lease] = {}

    @property
    def shown(self) -> str:
        """The database's URL, without its password."""
        return self._database.shown

    def save(self, rollout: Rollout) -> None:
        """Keep the rollout as it stands now, beside every earlier state; the same state again changes nothing.

        Under a lease of this store it renews that; without one it is for a person, while no controller is at work.

        Raises:
            LeaseLostError: another controller has taken over.
            LeaseHeldError: this store holds no lease on the rollout's name, and a controller does.
        """
        body = rollout.model_dump_json()
        own = ROLLOUTS.c.rollout_id == rollout.rollout_id
        with self._database.transaction(writes=True) as connection:
            self._fence(connection, rollout.name)
            current = connection.execute(sql.select(ROLLOUTS.c.body).where(own)).scalar_one_or_none()
            if current == body:
                return
            state = {"rollout_id": rollout.rollout_id, "saved_s": self._database.now_s(connection), "body": body}
            if current is None:
                connection.execute(sql.insert(ROLLOUTS).values(state | {"name": rollout.name}))
            else:
                connection.execute(sql.update(ROLLOUTS).where(own).values(state))
            connection.execute(sql.insert(HISTORY).values(state))

    def latest(self, name: str) -> Rollout | None:
        """The newest rollout of the registered engine ``name`` as it was last saved; None where there is none."""
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(_latest(name)).one_or_none()
        return None if row is None else self._read(row.body)

    def all_latest(self) -> list[Rollout]:
        """The newest rollout of every registered engine, by name."""
        newest = sql.select(sql.func.max(ROLLOUTS.c.number)).group_by(ROLLOUTS.c.name)
        wanted = sql.select(ROLLOUTS.c.body).where(ROLLOUTS.c.number.in_(newest)).order_by(ROLLOUTS.c.name)
        with self._database.transaction(writes=False) as connection:
            bodies = connection.execute(wanted).scalars().all()
        return [self._read(body) for body in bodies]

    def find(self, rollout_id: str) -> Rollout:
        """A rollout as it was last saved.

        Raises:
            BadInputError: there is none of this id.
        """
        wanted = sql.select(ROLLOUTS.c.body).where(ROLLOUTS.c.rollout_id == rollout_id)
        with self._database.transaction(writes=False) as connection:
            body = connection.execute(wanted).scalar_one_or_none()
            if body is None:
                raise _unknown(connection, rollout_id)
        return self._read(body)

    def states(self, rollout_id: str) -> list[Saved]:
        """Every state that was saved of a rollout, from the first to the newest.

        Raises:
            BadInputError: there is none of this id.
        """
        wanted = sql.select(HISTORY.c.saved_s, HISTORY.c.body).where(HISTORY.c.rollout_id == rollout_id)
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(wanted.order_by(HISTORY.c.number)).all()
            if not rows:
                raise _unknown(connection, rollout_id)
        return [Saved(row.saved_s, self._read(row.body)) for row in rows]

    def history(self, rollout_id: str) -> list[Rollout]:
        """As `states`, without the times."""
        return [state.rollout for state in self.states(rollout_id)]

    @contextmanager
    def lease(self, name: str, owner: str, seconds: float) -> Iterator[Lease]:
        """Be the only controller of ``name``, as long as the lease is renewed before ``seconds`` are over.

        A controller that was killed is waited for until its lease runs out; where ``owner`` is told by `this_process`,
        one that has ended on this host is not. Inside the block, what this store saves of ``name`` is fenced.

        Raises:
            LeaseHeldError: another controller is at work.
        """
        lease = acquire(self._database, name, owner, seconds)
        self._held[name] = lease
        try:
            yield lease
        finally:
            del self._held[name]
            with suppress(InfrastructureError):  # then it runs out by itself
                lease.give_back()

    def heard(self, name: str) -> Heard | None:
        """The newest rollout of ``name``, and when its controller was last heard of; None without a rollout."""
        renewed = sql.select(LEASES.c.renewed_s).where(LEASES.c.name == name)
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(_latest(name)).one_or_none()
            sign_s = connection.execute(renewed).scalar_one_or_none() or 0.0
            ahead_s = self._database.ahead_s(connection)
        return None if row is None else Heard(self._read(row.body), max(sign_s, row.saved_s), ahead_s)

    def record(self, rollout_id: str, kind: str, text: str, key: str = "") -> bool:
        """Keep an event, once for each ``key`` of its kind; whether it is a new one."""
        with self._database.transaction(writes=True) as connection:
            event = {"rollout_id": rollout_id, "kind": kind, "key": key, "text": text}
            return insert_new(connection, EVENTS, event | {"at_s": self._database.now_s(connection)})

    def events(self, rollout_id: str) -> list[Event]:
        """What happened to a rollout, in order."""
        wanted = sql.select(*EVENTS.c["kind", "key", "text", "at_s"]).where(EVENTS.c.rollout_id == rollout_id)
        with self._database.transaction(writes=False) as connection:
            return [Event(*row) for row in connection.execute(wanted.order_by(EVENTS.c.number))]

    def add_labels(self, name: str, labels: Mapping[str, Classes]) -> int:
        """Keep the classes that are right for requests to ``name``, all or none; how many were not known yet.

        Raises:
            BadInputError: another label is known for one of the requests.
        """
        with self._database.transaction(writes=True) as connection:
            self._database.in_order(connection)
            known = _known_labels(connection, name, list(labels))
            conflicts = [request for request, classes in known.items() if classes != labels[request]]
            if conflicts:
                raise BadInputError(_conflict(conflicts, known, labels))
            now_s = self._database.now_s(connection)
            rows = [
                {"name": name, "request_id": request, "classes": json.dumps(classes), "at_s": now_s}
                for request, classes in labels.items()
                if request not in known
            ]
            if rows:
                connection.execute(sql.insert(LABELS), rows)
        return len(rows)

    def labels_after(self, name: str, number: int, since_s: float) -> list[Label]:
        """The labels for ``name`` that came after the one of this number, and not before ``since_s``; in order."""
        columns = LABELS.c["number", "request_id", "classes", "at_s"]
        wanted = sql.select(*columns).where(LABELS.c.name == name, LABELS.c.number > number, LABELS.c.at_s >= since_s)
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(wanted.order_by(LABELS.c.number))
            return [Label(row.number, row.request_id, tuple(json.loads(row.classes)), row.at_s) for row in rows]

    def _fence(self, connection: sql.Connection, name: str) -> None:
        held = self._held.get(name)
        if held is None:
            refuse_if_held(self._database, connection, name)
        else:
            held.renew_in(connection)

    def _read(self, body: str) -> Rollout:
        try:
            return Rollout.model_validate_json(body)
        except ValidationError as error:
            raise InfrastructureError(
                f"a rollout in {self.shown} cannot be read by Slipway {slipway.__version__}; use the one that wrote it"
            ) from error


def rollout_jsonl(store: RolloutStore, rollout_id: str) -> str:
    """Every saved state of a rollout as a line of JSON, ready to be plotted: what it was decided on, and when.

    Each line is the record of the rollout with ``saved_s``, and with its policy as an object.

    Raises:
        BadInputError: there is no such rollout.
        InfrastructureError: the store cannot be reached.
    """
    return "".join(_line(state) for state in store.states(rollout_id))


def _line(state: Saved) -> str:
    told: dict[str, Any] = {"saved_s": state.saved_s, **state.rollout.model_dump(mode="json")}
    told["policy"] = json.loads(told.pop("policy_json"))
    return json.dumps(told) + "\n"


def _latest(name: str) -> sql.Select[tuple[str, float]]:
    wanted = sql.select(ROLLOUTS.c.body, ROLLOUTS.c.saved_s).where(ROLLOUTS.c.name == name)
    return wanted.order_by(ROLLOUTS.c.number.desc()).limit(1)


def _unknown(connection: sql.Connection, rollout_id: str) -> BadInputError:
    known = connection.execute(sql.select(ROLLOUTS.c.rollout_id)).scalars()
    return BadInputError(f"there is no rollout {rollout_id!r}{nearest(rollout_id, known)}; see `slipway status`")


def _known_labels(connection: sql.Connection, name: str, requests: Sequence[str]) -> dict[str, Classes]:
    known: dict[str, Classes] = {}
    for start in range(0, len(requests), _ASKED_AT_ONCE):
        asked = LABELS.c.request_id.in_(requests[start : start + _ASKED_AT_ONCE])
        rows = connection.execute(sql.select(*LABELS.c["request_id", "classes"]).where(LABELS.c.name == name, asked))
        known |= {row.request_id: tuple(json.loads(row.classes)) for row in rows}
    return known


def _conflict(conflicts: Sequence[str], known: Mapping[str, Classes], given: Mapping[str, Classes]) -> str:
    told = [f"{request!r} is {list(known[request])}, not {list(given[request])}" for request in conflicts]
    more = f" and {len(told) - _TOLD_CONFLICTS} more" if len(told) > _TOLD_CONFLICTS else ""
    return f"other labels are known already: {', '.join(told[:_TOLD_CONFLICTS])}{more}; nothing was imported"
