"""Follows the aliases of the served models: what an alias names anew is fetched, and handed over to be served."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from slipway.errors import BadInputError, InfrastructureError, SlipwayError, first_line
from slipway.records import Hardware
from slipway.serving.answering.local_engine import LocalEngine, fetch
from slipway.serving.processes.messages import Reach, Refuse, Swap, Unload
from slipway.serving.processes.models_file import ModelEntry
from slipway.serving.processes.refusals import outcome_of
from slipway.stores.registry import Registry, version_with

JOIN_SECONDS = 2.0

Change: TypeAlias = Swap | Refuse | Unload | Reach | str  # a string is for the person alone
Entries: TypeAlias = Callable[[], Iterable[ModelEntry]]


class Follower:
    """Asks the registry for the aliases of the models that ``entries`` tells, and submits what changed.

    Engines are checked against the host ``here`` and copied into ``folder``. What cannot be served is refused once,
    until its alias moves again; what could not be asked or copied is tried again at the next look.
    """

    def __init__(
        self, registry: Registry, entries: Entries, here: Hardware, folder: Path, submit: Callable[[Change], None]
    ) -> None:
        self._registry, self._read, self._here, self._folder, self._submit = registry, entries, here, folder, submit
        self._orders = itertools.count(1)
        self._entries: dict[str, ModelEntry] = {}
        self._seen: dict[str, str | None] = {}
        self._reached, self._read_anew = True, False
        self._wake, self._ended = threading.Event(), threading.Event()

    def first(self) -> tuple[LocalEngine, ...]:
        """Every model's engine, fetched.

        Raises:
            SlipwayError: one of them cannot be served, or the registry not be asked.
        """
        self._registry.check()
        self._entries = {entry.registered: entry for entry in self._read()}
        engines = []
        for entry in self._entries.values():
            version = version_with(self._registry, entry.registered, entry.alias)
            engines.append(self._fetch(entry, version))
            self._seen[entry.registered] = version
        return tuple(engines)

    def look(self, read: bool = False) -> None:
        """Ask for every alias once, and submit what moved; before it, ``read`` the entries anew."""
        if read:
            self._read_entries()
        reason = None
        for entry in list(self._entries.values()):
            asked = False
            try:
                self._registry.check()
                asked = True
                self._look_at(entry)
            except Exception as error:  # noqa: BLE001 - nothing that a store raises may end the looking
                reason = reason or _told(error)
                if not asked:
                    break  # one model's files do not keep the others from being followed
        if self._reached != (reason is None):
            self._reached = reason is None
            self._submit(Reach(reason=reason))

    def fetch_again(self, name: str) -> None:
        """Fetch the model's engine again at the next look, which is now."""
        self._seen.pop(name, None)
        self._wake.set()

    @contextmanager
    def following(self, seconds: float) -> Iterator[None]:
        """Look every so many ``seconds`` meanwhile, in a thread; 0: only when told to look now."""
        thread = threading.Thread(target=self._follow, args=(seconds or None,), name="aliases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._wake.set()
            thread.join(JOIN_SECONDS)  # it may wait for a store that does not answer

    def look_now(self) -> None:
        """Look at once, the entries read anew; may be called from a signal's handler."""
        self._read_anew = True
        self._wake.set()

    def _follow(self, seconds: float | None) -> None:
        while True:
            self._wake.wait(seconds)
            self._wake.clear()
            if self._ended.is_set():
                return
            read = self._read_anew
            if read:  # else a signal that comes just now would be forgotten
                self._read_anew = False
            self.look(read)

    def _read_entries(self) -> None:
        try:
            entries = {entry.registered: entry for entry in self._read()}
        except Exception as error:  # noqa: BLE001 - whatever a file holds may not end the looking
            self._submit(f"the same models are served on: {_told(error)}")
            return
        for name in self._entries.keys() - entries.keys():
            self._seen.pop(name, None)
            self._submit(Unload(name=name))
        for name, entry in entries.items():
            if entry != self._entries.get(name):
                self._seen.pop(name, None)
        self._entries = entries

    def _look_at(self, entry: ModelEntry) -> None:
        name, missing = entry.registered, f"no version bears {entry.alias} any more"
        try:
            version = self._registry.aliases(name).get(entry.alias)
        except BadInputError as error:
            version, missing = None, str(error)
        if name in self._seen and version == self._seen[name]:
            return
        if version is None:
            self._seen[name] = None
            self._submit(Refuse(name=name, reason=missing, outcome="refused"))
            return
        try:
            engine = self._fetch(entry, version)
        except InfrastructureError:
            raise
        except SlipwayError as error:
            self._seen[name] = version
            self._submit(Refuse(name=name, reason=f"version {version} is refused: {error}", outcome=outcome_of(error)))
            return
        self._seen[name] = version
        self._submit(Swap(engine=engine))

    def _fetch(self, entry: ModelEntry, version: str) -> LocalEngine:
        folder = self._folder / str(next(self._orders))
        folder.mkdir(parents=True)  # a cleaner of temporary folders may have come by
        return fetch(self._registry, entry.registered, entry.alias, version, self._here, folder)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, SlipwayError) else first_line(error)
