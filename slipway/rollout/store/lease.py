"""The lease on a registered engine: whoever holds it is its only controller, until it is not renewed any more."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import sqlalchemy as sql

from slipway.errors import InfrastructureError, RejectedError
from slipway.rollout.store.database import LEASES, Database, insert_new

_POLL_SECONDS = 0.1
_NOBODY, _UNKNOWN = "nobody", "unknown"


class LeaseHeldError(RejectedError):
    """Another controller holds the lease, and lives."""


class LeaseLostError(InfrastructureError):
    """The lease ran out, and another controller took it over: this one has to leave the traffic alone."""


class Lease:
    """The right to control the rollouts of ``name``; each renewal is the sign of life that the dead man waits for.

    ``token`` fences: it grows with every holder, and whoever comes with an older one is refused. A lease that has run
    out is still this holder's while nobody else has taken it.
    """

    def __init__(self, database: Database, name: str, owner: str, seconds: float, token: int) -> None:
        self._database, self._seconds = database, seconds
        self.name, self.owner, self.token = name, owner, token

    def renew(self) -> None:
        """Hold it for the full time from now on; to be called before the traffic's share is changed.

        Raises:
            LeaseLostError: another controller has taken it over.
            InfrastructureError: the store cannot be reached.
        """
        with self._database.transaction(writes=True) as connection:
            self.renew_in(connection)

    def renew_in(self, connection: sql.Connection) -> None:
        """Renew inside a transaction: nobody can take it over before that has ended.

        Raises:
            LeaseLostError: another controller has taken it over.
        """
        now_s = self._database.now_s(connection)
        renewed = self._set(connection, {"expires_s": now_s + self._seconds, "renewed_s": now_s})
        if not renewed:
            raise LeaseLostError(
                f"another controller has taken over the rollout of {self.name}: this one ({self.owner}) was silent for "
                f"more than {self._seconds:g} s; leave it to the other one"
            )

    def give_back(self) -> None:
        """Let the next controller have it at once; harmless where it is lost.

        Raises:
            InfrastructureError: the store cannot be reached; the lease runs out by itself.
        """
        with self._database.transaction(writes=True) as connection:
            self._set(connection, {"expires_s": 0.0})

    def _set(self, connection: sql.Connection, values: dict[str, float]) -> bool:
        own = (LEASES.c.name == self.name) & (LEASES.c.token == self.token)
        return connection.execute(sql.update(LEASES).where(own).values(values)).rowcount == 1


def acquire(database: Database, name: str, owner: str, seconds: float) -> Lease:
    """Take the lease on ``name``; that of a holder which died is waited for until it runs out.

    Raises:
        LeaseHeldError: its holder lives: it was renewed meanwhile, or another one was quicker.
        InfrastructureError: the store cannot be reached.
    """
    first: tuple[int, float] | None = None
    while True:
        with database.transaction(writes=True) as connection:
            unheld = {"name": name, "owner": _NOBODY, "token": 0, "expires_s": 0.0, "renewed_s": 0.0}
            insert_new(connection, LEASES, unheld)
            row = connection.execute(sql.select(LEASES).where(LEASES.c.name == name).with_for_update()).one()
            now_s = database.now_s(connection)  # whoever had the row locked is waited for by now
            if row.expires_s <= now_s or has_ended(row.owner):
                taken = {"owner": owner, "token": row.token + 1, "expires_s": now_s + seconds, "renewed_s": now_s}
                connection.execute(sql.update(LEASES).where(LEASES.c.name == name).values(taken))
                return Lease(database, name, owner, seconds, row.token + 1)
        first = first or (row.token, row.expires_s)
        if (row.token, row.expires_s) != first:
            raise _held(name, row.owner)
        time.sleep(min(_POLL_SECONDS, max(row.expires_s - now_s, 0.0)))


def refuse_if_held(database: Database, connection: sql.Connection, name: str) -> None:
    """Check inside a transaction that no controller holds the lease on ``name``.

    Raises:
        LeaseHeldError: one does.
    """
    row = connection.execute(sql.select(LEASES).where(LEASES.c.name == name).with_for_update()).one_or_none()
    if row is not None and row.expires_s > database.now_s(connection) and not has_ended(row.owner):
        raise _held(name, row.owner)


def _held(name: str, owner: str) -> LeaseHeldError:
    return LeaseHeldError(
        f"a controller of {name} is at work already ({owner}); see `slipway status`, or end that one first"
    )


def this_process() -> str:
    """The owner that this process is: host, process id, when it was started, and which processes its host knows."""
    pid = os.getpid()
    return f"{socket.gethostname()} {pid} {_started(pid)} {_realm()}"


def has_ended(owner: str) -> bool:
    """Whether ``owner``, told by `this_process`, is known to have ended; of other hosts' processes nothing is known."""
    host, _, process = owner.partition(" ")
    parts = process.split(" ")
    known = host == socket.gethostname() and len(parts) == 3 and parts[0].isdecimal() and parts[2] == _realm()
    if not known or parts[2] == _UNKNOWN:
        return False
    pid = int(parts[0])
    started = _started(pid)
    return not _exists(pid) if started is None else started != parts[1]


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the boot, which no clock changes; None where nothing of it is told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name before it may hold anything
    return "a zombie" if fields[0] in {"Z", "X"} else fields[19]


def _exists(pid: int) -> bool:
    """Whether there is such a process, also where /proc hides those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _realm() -> str:
    """This boot and its container: in another one the same process id is another process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return _UNKNOWN
