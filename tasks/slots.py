"""One at a time across a team: a slot of a global concurrency limit on the Prefect server that the team shares."""

from __future__ import annotations

import contextvars
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.exceptions import ObjectAlreadyExists
from prefect.runtime import flow_run

from slipway.errors import InfrastructureError
from tasks.prefect_api import NO_ANSWER, asked_once, in_one_line, no_answer

# Prefect's API takes 60 and more, and ends that of a killed holder within 15 s more. A server on a host with seven
# processes for each core was seen not to answer for longer than a minute.
LEASE_SECONDS = 120.0
RENEWAL_SECONDS = 15.0
RETRY_SECONDS = 2.0
ANSWER_SECONDS = 10.0
OUTAGE_SECONDS = 300.0  # of the server, that whoever waits puts up with: a restart takes less
WAIT_SECONDS = 48 * 3600.0  # a release that learns may take a day
STUCK_SECONDS = 6 * 3600.0
LOGGER = logging.getLogger("prefect.slipway.slots")


@contextmanager
def slot(name: str, waits: Callable[[str], None]) -> Iterator[None]:
    """Hold the one slot of the limit ``name``; until it is free, wait, and tell ``waits`` what for.

    Without a shared server there is nobody to wait for. Once held, no failure of the server ends the block: the lease
    is renewed as soon as it answers again.

    Raises:
        InfrastructureError: the server is gone for too long before the slot was had, or its holder does not end.
    """
    name = re.sub("[/%&<>]", "_", name)  # which Prefect has in no name
    with asked_once(), get_client(sync_client=True) as client:
        lease = None if client.server_type is ServerType.EPHEMERAL else _Lease(name, _acquired(client, name, waits))
    if lease is None:
        yield
        return
    # In this context, whose settings name the server.
    keeping = contextvars.copy_context().run
    keeper = threading.Thread(target=keeping, args=(lease.keep,), name=f"lease of {name}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        lease.ended.set()
        keeper.join(RENEWAL_SECONDS)  # a hanging request is cut short with the process
        lease.give_back()


def _acquired(client: SyncPrefectClient, name: str, waits: Callable[[str], None]) -> UUID:
    """The id of the lease, once there is one."""
    start = heard = time.monotonic()
    told = set[str]()
    waited = 0.0
    while True:
        message = f"the slot {name!r} is taken" + (f"; {_way_out(name)}" if waited > STUCK_SECONDS else "")
        try:
            if lease := _tried(client, name):
                return lease
            heard = time.monotonic()
        except NO_ANSWER as error:
            if time.monotonic() - heard > OUTAGE_SECONDS:
                raise no_answer(f"did not give the slot {name!r}", error) from error
            message = f"Prefect did not give the slot {name!r}, and is asked again: {in_one_line(error)}"
        if (waited := time.monotonic() - start) > WAIT_SECONDS:
            raise InfrastructureError(f"the slot {name!r} was not free within {WAIT_SECONDS:.0f} s; {_way_out(name)}")
        if message not in told:
            waits(message)
            told.add(message)
        time.sleep(RETRY_SECONDS)


def _way_out(name: str) -> str:
    return (
        f"if no flow run in Prefect holds it, run `prefect global-concurrency-limit update {name} --active-slots 0`, "
        "which is needed where the server was restarted and keeps its leases in memory"
    )


def _tried(client: SyncPrefectClient, name: str) -> UUID | None:
    """The id of a lease on the slot; None while somebody else has it. The limit is made where it is missing."""
    try:
        client.upsert_global_concurrency_limit_by_name(name, limit=1)
    except ObjectAlreadyExists:  # another release made it at the same moment
        return None
    _check_that_leases_are_kept(client)
    run_id = flow_run.id
    holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(run_id)) if run_id else None
    try:
        answer: Any = client.increment_concurrency_slots_with_lease([name], 1, "concurrency", LEASE_SECONDS, holder)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != HTTPStatus.LOCKED:
            raise
        return None
    found = answer.json()
    # Where the limit was deleted meanwhile, Prefect lets everybody in.
    return UUID(found["lease_id"]) if any(limit["name"] == name for limit in found["limits"]) else None


def _check_that_leases_are_kept(client: SyncPrefectClient) -> None:
    """See whether the server reaches where it keeps leases.

    Where it does not, it would count a slot, fail to make the lease, and nothing would ever give the slot back.

    Raises:
        httpx.HTTPStatusError: it does not reach it.
    """
    try:
        client.renew_concurrency_lease(uuid4(), LEASE_SECONDS)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != HTTPStatus.GONE:
            raise


class _Lease:
    """What is held, and kept as long as it is needed."""

    def __init__(self, name: str, lease_id: UUID) -> None:
        self.ended = threading.Event()
        self._name, self._id = name, lease_id
        self._renewed = time.monotonic()
        self._bare = self._told = False

    def keep(self) -> None:
        """Renew the lease until ``ended``, whatever becomes of the server meanwhile."""
        wait = RENEWAL_SECONDS
        while not self.ended.wait(wait):
            try:
                with asked_once(), get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True) as client:
                    self._renew(client)
                wait = RENEWAL_SECONDS
            except (httpx.HTTPError, RuntimeError, OSError) as error:
                LOGGER.warning("the slot %r was not renewed, and is tried again: %s", self._name, error)
                wait = RETRY_SECONDS

    def _renew(self, client: SyncPrefectClient) -> None:
        if self._bare:
            return
        asked = time.monotonic()
        try:
            client.renew_concurrency_lease(self._id, LEASE_SECONDS)
            self._renewed = asked
        except httpx.HTTPStatusError as error:
            if error.response.status_code != HTTPStatus.GONE:
                raise
            if asked - self._renewed < LEASE_SECONDS - RETRY_SECONDS:
                # It cannot have run out: the server was restarted and kept its leases in memory. Its database still
                # counts the slot, which is given back by number then.
                self._bare = True
            elif lease := _tried(client, self._name):
                self._id, self._renewed = lease, asked
            elif not self._told:
                self._told = True
                LOGGER.warning("the slot %r ran out while Prefect was away, and is taken now", self._name)

    def give_back(self) -> None:
        """Let the next one have the slot; where the server is away, its lease runs out."""
        try:
            with get_client(sync_client=True) as client:
                if self._bare:
                    held = max(time.monotonic() - self._renewed, 1.0)
                    client.release_concurrency_slots([self._name], 1, held)
                else:
                    client.release_concurrency_slots_with_lease(self._id)
        except (httpx.HTTPError, RuntimeError, OSError) as error:
            LOGGER.warning(
                "the slot %r was not given back, and is free in %.0f s: %s", self._name, LEASE_SECONDS, error
            )
