"""A canary's surroundings in memory: traffic comes as time passes, and any call may be the controller's last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slipway.config import CanaryParams
from slipway.decisions.canary import Seen
from slipway.errors import InfrastructureError
from slipway.records import Contender, Decision, Rollout
from slipway.rollout.controller import Controller, Demands, begun, unfinished
from slipway.rollout.site import Site
from slipway.steps import promote as steps
from tests.fakes.evidence import DATA_MD5
from tests.fakes.registry import FakeRegistry
from tests.fakes.splitter import FakeSplitter
from tests.unit.steps.registered import register_engine

NAME = "digits.x86"
POLICY = CanaryParams(
    steps=(10, 50),
    latency_margin=0.5,
    accuracy_margin=0.1,
    error_margin=0.1,
    step_requests=100,
    max_requests=5_000,
    max_minutes=5,
    bake_minutes=0.1,
    dead_man_seconds=5,
)
REQUESTS_PER_S = 400


class Killed(BaseException):
    """The process was killed: nothing in it goes on."""


class Event(NamedTuple):
    """What a store recorded."""

    kind: str
    text: str


class MemoryStore:
    """``slipway.rollout.site.Store`` in memory; ``reachable`` lets it fail."""

    def __init__(self) -> None:
        self.history: list[Rollout] = []
        self.happened: dict[str, list[Event]] = {}
        self.reachable = True

    def renew(self) -> None:
        """As the lease, which is kept in it."""
        self._reach()

    def save(self, rollout: Rollout) -> None:
        self._reach()
        self.history.append(rollout)

    def latest(self, name: str) -> Rollout | None:
        self._reach()
        return next((rollout for rollout in reversed(self.history) if rollout.name == name), None)

    def record(self, rollout_id: str, kind: str, text: str) -> bool:
        self._reach()
        self.happened.setdefault(rollout_id, []).append(Event(kind, text))
        return True

    def events(self, rollout_id: str) -> list[Event]:
        self._reach()
        return self.happened.get(rollout_id, [])

    def _reach(self) -> None:
        if not self.reachable:
            raise InfrastructureError("the store does not answer; start it")


class Mortal:
    """Passes calls on; each counts, and at one of them the process is killed, before or after it took effect."""

    def __init__(self, world: World, whole: object) -> None:
        self._world, self._whole = world, whole

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._whole, name)
        return self._world.mortal(found) if callable(found) else found


@dataclass
class World:
    """Champion 1 and challenger 2 of ``NAME``; ``slower`` and ``failing`` are what is wrong with the challenger."""

    folder: Path
    policy: CanaryParams = POLICY
    approval: bool = False
    slower: float = 1.0
    failing: float = 0.0
    disagreeing: float = 0.0
    requests_per_s: int = REQUESTS_PER_S
    killed_at: int | None = None
    effective: bool = False  # whether the call at which it is killed took effect

    now_s: float = 1_000.0
    calls: int = 0
    splitter: FakeSplitter = field(default_factory=FakeSplitter)
    store: MemoryStore = field(default_factory=MemoryStore)
    shadow: list[bool] = field(default_factory=list)
    recorded: list[Rollout] = field(default_factory=list)
    closed: list[Rollout] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    at: list[tuple[float, Callable[[], object]]] = field(default_factory=list)  # what happens at which time
    served: str | None = "1"
    today_md5: str = DATA_MD5
    errors: int = 0

    def __post_init__(self) -> None:
        self.registry = FakeRegistry()
        self._random = np.random.default_rng(7)
        self.contenders = [
            Contender(version=one.version, digest=one.digest)
            for one in (register_engine(self.registry, self.folder, NAME, content) for content in (b"one", b"two"))
        ]
        self.registry.promote(NAME, "1", None, None)
        self.registry.set_challenger(NAME, "2")
        self._champion, self._challenger, self._baked = [np.empty(0)], [np.empty(0)], [np.empty(0)]
        self._disagreed = [np.empty(0, bool)]

    def mortal(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, at which the process may be killed."""

        def called(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self.killed_at and not self.effective:
                raise Killed
            answer = call(*arguments, **named)
            if self.calls == self.killed_at:
                raise Killed
            return answer

        return called

    def run(self) -> Rollout:
        """A controller from its start to its end."""
        rollout = unfinished(self.store, NAME) or begun(NAME, *self.contenders, self.policy, self.now_s)
        return Controller(self._site(), rollout, Demands(None, self.approval)).run(self.store.renew)

    def run_through(self) -> Rollout:
        """As ``run``, started anew after it was killed."""
        while True:
            try:
                return self.run()
            except Killed:
                if self.store.history and self.store.latest(NAME) and unfinished(self.store, NAME) is None:
                    return self.store.history[-1]  # at its very last call
                self.pass_time(1)

    def pass_time(self, seconds: float) -> None:
        """Requests come, the champion's server follows its alias, and what was to happen does."""
        self.now_s += seconds
        requests = int(seconds * self.requests_per_s)
        if self.splitter.reachable:
            to_challenger = self.splitter.answer(requests, self.now_s)
            alone = self.splitter.share() == 100
            failed = int(self._random.binomial(to_challenger, self.failing))
            self.errors += failed
            latencies_ms = self._latencies_ms(to_challenger - failed) * self.slower
            (self._baked if alone else self._challenger).append(latencies_ms)
            self._champion.append(self._latencies_ms(requests - to_challenger))
            if self.shadow and self.shadow[-1]:
                self._disagreed.append(self._random.random(requests - to_challenger) < self.disagreeing)
        self.served = self.aliases["champion"] if self.served is not None else None
        for due in [one for one in self.at if one[0] <= self.now_s]:
            self.at.remove(due)
            due[1]()

    def _latencies_ms(self, count: int) -> np.ndarray:
        return 5 * (1 + self._random.exponential(size=count))

    def observe(self, _: Rollout) -> Seen:
        """All that came so far."""
        champion_ms, challenger_ms = np.concatenate(self._champion), np.concatenate(self._challenger)
        disagreed, baked_ms = np.concatenate(self._disagreed), np.concatenate(self._baked)
        return Seen(champion_ms, challenger_ms, 0, self.errors, disagreed=disagreed, baked_ms=baked_ms)

    def promote(self, version: str) -> Decision:
        """The real step, on today's data."""
        registry: Any = Mortal(self, self.registry)
        return steps.promote(registry, NAME, version, self.today_md5)

    def consent(self) -> None:
        """A person approves the newest rollout."""
        self.store.record(self.store.history[-1].rollout_id, "approved", "ada: looks fine")

    @property
    def aliases(self) -> dict[str, str]:
        """Version by alias."""
        return dict(self.registry.models[NAME].aliases)

    @property
    def tags(self) -> dict[str, str]:
        """Those of the challenger's version."""
        return self.registry.version(NAME, "2").tags

    def phases(self) -> list[str]:
        """Phase and step of the saved states, each once, in order."""
        return list(dict.fromkeys(f"{one.phase} {one.step}" for one in self.store.history))

    def _site(self) -> Site:
        store: Any = Mortal(self, self.store)
        registry: Any = Mortal(self, self.registry)
        splitter: Any = Mortal(self, self.splitter)
        return Site(
            store=store,
            registry=registry,
            splitter=splitter,
            shadow=self.mortal(self.shadow.append),
            observe=self.mortal(self.observe),
            promote=self.promote,
            serving=self.mortal(lambda: self.served),
            record=self.mortal(self.recorded.append),
            close=self.mortal(self.closed.append),
            report=lambda _: None,
            warn=self.warned.append,
            clock=lambda: self.now_s,
            sleep=self.pass_time,
        )
