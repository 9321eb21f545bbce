"""The supervising process's account of the engines: which lie on disk, which serve, and which are to."""

from __future__ import annotations

import shutil
from pathlib import Path

from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.http.limits import Limits
from slipway.serving.processes.messages import Start

MOST_DEATHS = 2


class Ledger:
    """What has to be said to a process that is started anew, and which files nobody needs any more.

    Of each model the engine that was served last, and the one that is to take its place; what both processes let go of
    is removed from ``folder``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._engines: dict[int, LocalEngine] = {}
        self._serving: dict[str, int] = {}
        self._wanted: dict[str, int] = {}
        self._deaths: dict[int, int] = {}
        self._refusals: dict[str, str] = {}
        self._unloaded: set[int] = set()

    def __getitem__(self, order: int) -> LocalEngine:
        return self._engines[order]

    @property
    def wanted(self) -> tuple[LocalEngine, ...]:
        """The engines that are to take another's place."""
        return tuple(self._engines[order] for order in self._wanted.values())

    def serving(self, name: str) -> LocalEngine | None:
        """The engine that serves the model, or served it last."""
        order = self._serving.get(name)
        return None if order is None else self._engines[order]

    def start(self, limits: Limits, restarts: int) -> Start:
        """What a new process is told: the engines that were served last."""
        engines = tuple(self._engines[order] for order in self._serving.values())
        return Start(
            engines=engines, refusals=dict(self._refusals), limits=limits, restarts=restarts, folder=self.folder
        )

    def begin(self, engine: LocalEngine) -> None:
        """The engine is to be served from the start."""
        self._engines[engine.order] = engine
        self._serving[engine.name] = engine.order

    def want(self, engine: LocalEngine) -> None:
        """The engine is to take the place of what serves its model; a newer one is wanted in place of an older."""
        self._engines[engine.order] = engine
        self._wanted.pop(engine.name, None)  # they are opened in the order in which they were wanted
        self._wanted[engine.name] = engine.order

    def opened(self, order: int) -> None:
        """The engine serves its model from now on, unless the model was unloaded meanwhile."""
        name = self._engines[order].name
        if order in self._unloaded:
            return
        self._serving[name] = order
        self._refusals.pop(name, None)
        if self._wanted.get(name) == order:
            del self._wanted[name]

    def refuse(self, name: str, reason: str) -> None:
        """What the alias of the model names is not served."""
        self._refusals[name] = reason

    def refused(self, order: int, reason: str) -> None:
        """The engine could not be opened."""
        name = self._engines[order].name
        if order not in self._unloaded:
            self.refuse(name, reason)
        for kept in (self._serving, self._wanted):
            if kept.get(name) == order:
                del kept[name]
        self.closed(order)

    def unload(self, name: str) -> None:
        """The model is served no more; an engine that is being opened for it will be closed again."""
        self._unloaded |= {order for order, engine in self._engines.items() if engine.name == name}
        for kept in (self._serving, self._wanted, self._refusals):
            kept.pop(name, None)

    def closed(self, order: int) -> None:
        """The files of the engine are needed no more."""
        if order in self._serving.values() or order in self._wanted.values():
            return
        self._deaths.pop(order, None)
        self._unloaded.discard(order)
        if self._engines.pop(order, None) is not None:
            shutil.rmtree(self.folder / str(order), ignore_errors=True)

    def died(self, *, ready: bool) -> LocalEngine | None:
        """The process died, ``ready`` or still opening what served before; the engine that is given up, if one is.

        It is the one that was being opened whenever the process died: the others only waited for their turn.
        """
        for order in list(self._engines):
            self.closed(order)
        opening = next(iter(self.wanted), None) if ready else None
        if opening is None:
            return None
        deaths = self._deaths[opening.order] = self._deaths.get(opening.order, 0) + 1
        return opening if deaths >= MOST_DEATHS else None
