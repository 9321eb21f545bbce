"""What hands deliveries on to Prefect, for as long as it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, TypeVarTuple
from uuid import UUID

from slipway.errors import BadInputError, InfrastructureError, SlipwayError, first_line
from slipway.triggers.decide import Asked, Refusal
from slipway.triggers.deliveries import Deliveries, Delivery
from slipway.triggers.log import Log
from slipway.triggers.metrics import Figures

LONGEST_BACKOFF_SECONDS = 15.0
CONFIRM_EVERY_SECONDS = 2.0
ASK_AGAIN_SECONDS = 30.0  # Prefect writes events down every 5 s
LOOK_EVERY_SECONDS = 10.0
PRUNE_EVERY_SECONDS = 3600.0
CLOSE_SECONDS = 5.0
OURSELVES = "receiver"

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class Bus(Protocol):
    """Prefect, as far as it is needed; each method raises InfrastructureError where it does not answer.

    BadInputError is its refusal of one event.
    """

    def ask(self, asked: Asked, key: str) -> UUID:
        """Ask for it by an event whose id follows from ``key``; asked again for the same key, it changes nothing."""

    def holds(self, event_id: UUID) -> bool:
        """Whether the event is written down there."""

    def check(self) -> None:
        """Do nothing but see whether it answers."""


@dataclass
class Contact:
    """Whether Prefect answers, and since when it does or does not (Unix seconds); None before the first look."""

    reachable: bool | None = None
    since_s: float | None = None


class Handover:
    """Hands on from ``store`` to ``bus`` what is pending, in a thread of its own.

    A delivery is done once Prefect shows its event: an event that it took and lost is asked for again. ``decide`` tells
    what follows from a delivery that could not be decided on when it came.
    """

    def __init__(
        self,
        store: Deliveries,
        bus: Bus,
        decide: Callable[[Delivery], tuple[Asked | Refusal, str]],
        figures: Figures,
        log: Log,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._bus, self._decide = store, bus, decide
        self._figures, self._log, self._clock = figures, log, clock
        self.contact = Contact()
        self._failures, self._prune_s = 0, 0.0
        self._told_before: set[str] = set()
        self._told: set[str] = set()
        self._woken, self._ended = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="handover", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once: something came."""
        self._woken.set()

    def stop(self) -> None:
        """End after the request at hand, which is not waited for long: what is pending stays so."""
        self._ended = True
        self._woken.set()
        self._thread.join(CLOSE_SECONDS)

    def once(self) -> float:
        """Hand on what can be; in how many seconds to look again."""
        self._told_before, self._told = self._told, set()
        try:
            waiting = self._hand_on()
        except SlipwayError as error:
            self._failures += 1
            self._tell_once(first_line(error))
            return min(2.0 ** (self._failures - 1), LONGEST_BACKOFF_SECONDS)
        self._failures = 0
        return CONFIRM_EVERY_SECONDS if waiting else LOOK_EVERY_SECONDS

    def _run(self) -> None:
        while not self._ended:
            try:
                seconds = self.once()
            except Exception as error:  # noqa: BLE001 - whatever it was, what is pending must not wait for a restart
                self._tell_once(f"unforeseen {type(error).__name__}: {error}")
                seconds = LONGEST_BACKOFF_SECONDS
            # While Prefect is down a delivery that comes does not cut the pause short.
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        if self._failures:
            deadline = time.monotonic() + seconds
            while not self._ended and time.monotonic() < deadline:
                time.sleep(0.05)
        else:
            self._woken.wait(seconds)
        if not self._ended:
            self._woken.clear()

    def _hand_on(self) -> bool:
        """Whether something is left to be confirmed."""
        pending = self._store.pending()
        waiting = False
        for one in pending:
            waiting = self._one(one) or waiting
        if not any(one.asked for one in pending):
            self._call(self._bus.check)
        if self._clock() >= self._prune_s:
            self._store.prune(self._clock())
            self._prune_s = self._clock() + PRUNE_EVERY_SECONDS
        return waiting

    def _one(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` is left to be looked at again soon."""
        decided = self._decided(delivery)
        if decided is None:
            return False
        asked, key = decided
        try:
            if delivery.event_id is not None and self._call(self._bus.holds, delivery.event_id):
                self._store.done(delivery.delivery_id, "handed over", self._clock())
                return False
            if delivery.asked_s is None or self._clock() - delivery.asked_s > ASK_AGAIN_SECONDS:
                event_id = self._call(self._bus.ask, asked, key)
                self._store.asked(delivery.delivery_id, event_id, self._clock())
                self._tell_asked(delivery, asked, event_id)
        except SlipwayError as error:
            self._store.failed(delivery.delivery_id)
            if not isinstance(error, BadInputError):
                raise
            self._tell_once(f"delivery {delivery.delivery_id} is tried again, behind all others: {first_line(error)}")
            return False
        return True

    def _decided(self, delivery: Delivery) -> tuple[Asked, str] | None:
        if delivery.asked is not None and delivery.key is not None:
            return delivery.asked, delivery.key
        try:
            found, key = self._decide(delivery)
        except SlipwayError as error:
            self._store.failed(delivery.delivery_id)
            self._tell_once(f"delivery {delivery.delivery_id} waits: {first_line(error)}")
            return None
        if isinstance(found, Refusal):
            self._store.done(delivery.delivery_id, found.why, self._clock())
            self._log.tell(delivery.sender, "refused", found.why, delivery=delivery.delivery_id)
            return None
        self._store.decided(delivery.delivery_id, found, key)
        return found, key

    def _tell_asked(self, delivery: Delivery, asked: Asked, event_id: UUID) -> None:
        again = delivery.asked_s is not None
        waited_s = self._clock() - delivery.received_s
        if not again:
            self._figures.handed_over(waited_s)
        what = "asked Prefect again, which had not kept the event" if again else "asked Prefect"
        self._log.tell(
            OURSELVES, what, asked.reason, delivery=delivery.delivery_id, event=event_id, waited_s=round(waited_s, 3)
        )

    def _call(self, method: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Ask Prefect, and keep whether it answers."""
        try:
            result = method(*arguments)
        except InfrastructureError as error:
            self._met(reachable=False, why=first_line(error))
            raise
        self._met(reachable=True, why="it answers")
        return result

    def _met(self, *, reachable: bool, why: str) -> None:
        if self.contact.reachable is not reachable:
            self.contact = Contact(reachable, self._clock())
            self._figures.prefect(reachable)
            self._told.add(why)
            what = "Prefect answers" if reachable else "Prefect does not answer; what is pending waits"
            self._log.tell(OURSELVES, what, why)

    def _tell_once(self, trouble: str) -> None:
        """Tell of a trouble, unless it was there at the last look too."""
        if trouble not in self._told_before | self._told:
            self._log.tell(OURSELVES, "cannot hand on", trouble)
        self._told.add(trouble)
