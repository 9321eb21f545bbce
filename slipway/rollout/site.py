"""All that a controller reads and moves, each part behind what it needs of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from slipway.decisions.canary import Seen
from slipway.records import Decision, Rollout
from slipway.rollout.splitters.base import Splitter
from slipway.stores.registry import Registry


class Happened(Protocol):
    """Something that was recorded of a rollout."""

    @property
    def kind(self) -> str:
        """What it was."""
        ...

    @property
    def text(self) -> str:
        """What there is to tell of it."""
        ...


class Store(Protocol):
    """What a controller needs of the store of rollouts; each call raises InfrastructureError where it is down."""

    def save(self, rollout: Rollout) -> None:
        """Keep the rollout as it stands now."""
        ...

    def latest(self, name: str) -> Rollout | None:
        """The newest rollout of the registered engine ``name`` as it was last saved; None where there is none."""
        ...

    def record(self, rollout_id: str, kind: str, text: str) -> bool:
        """Keep that something happened."""
        ...

    def events(self, rollout_id: str) -> Sequence[Happened]:
        """What happened, in order."""
        ...


@dataclass(frozen=True)
class Site:
    """The stores, the traffic, and the people.

    ``shadow`` turns mirroring on or off. ``observe`` tells what was seen since the rollout began. ``promote`` makes a
    version champion once its evidence was read and checked again. ``serving`` is the version that the champion's server
    has opened (None: it does not answer). ``record`` keeps a decision with the version, ``close`` the whole of an ended
    rollout. ``report`` and ``warn`` tell a person.
    """

    store: Store
    registry: Registry
    splitter: Splitter
    shadow: Callable[[bool], None]
    observe: Callable[[Rollout], Seen]
    promote: Callable[[str], Decision]
    serving: Callable[[], str | None]
    record: Callable[[Rollout], None]
    close: Callable[[Rollout], None]
    report: Callable[[Rollout], None]
    warn: Callable[[str], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
