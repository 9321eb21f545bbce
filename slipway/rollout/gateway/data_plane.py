"""The data plane of one registered model: a server for each alias, and Envoy before them, all kept running."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Self, TypeAlias

from slipway.errors import BadInputError, InfrastructureError
from slipway.rollout.gateway.child import Child, Repeated
from slipway.rollout.gateway.envoy_admin import EnvoyAdmin
from slipway.rollout.gateway.envoy_config import CHALLENGER, CHAMPION, Places
from slipway.rollout.gateway.envoy_process import (
    await_ready,
    envoy,
    envoy_binary,
    free_port,
    listening_place,
    write_files,
)
from slipway.rollout.gateway.logs import rotate_copied, rotate_renamed
from slipway.rollout.gateway.running import Gateway, only_gateway, publish

TICK_SECONDS = 0.25
LOOK_SECONDS = 3.0
ROTATE_SECONDS = 5.0
CALL_SECONDS = 10.0
DRAIN_SECONDS = 20.0
SERVER_END_SECONDS = 45.0  # a server may take twice 20 s to answer what it has taken
ENVOY_END_SECONDS = 5.0
READY_SECONDS = 2.0

Serve: TypeAlias = Callable[[str, int, Path], Sequence[str]]


@dataclass(frozen=True)
class Plan:
    """What a gateway is to be: of which model (``NAME.TARGET``), where it listens, and whether it mirrors requests."""

    name: str
    folder: Path
    host: str = "127.0.0.1"
    port: int = 8080
    shadow: bool = True


class DataPlane:
    """A gateway that answers; a context manager, which ends all that it started.

    ``serve`` gives the command that serves an alias on a port and logs into a file. ``has_challenger`` tells whether a
    version bears the challenger's alias; it is asked in a thread of its own, and while it fails nothing changes.
    """

    def __init__(
        self, plan: Plan, serve: Serve, has_challenger: Callable[[], bool], tell: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._serve = serve
        self._has_challenger = has_challenger
        self._tell = tell
        self._stopping = self._challenger_wanted = False
        self._looking: Repeated | None = None
        self._open = ExitStack()
        self.gateway: Gateway | None = None

    def __enter__(self) -> Self:
        """Start; ``gateway`` tells afterwards how others find it, and is None if it was told to stop on the way.

        Raises:
            BadInputError: another gateway runs, the address is taken, or the champion cannot be served.
            UnsupportedError: Envoy is not installed.
            InfrastructureError: Envoy or the champion's server does not start.
        """
        envoy_binary()
        with ExitStack() as opened:
            opened.enter_context(only_gateway(self._plan.folder))
            gateway = self._make()
            opened.callback(self._end)
            self._start(gateway)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def stop(self) -> None:
        """Let ``run`` end; may be called by the handler of a signal."""
        self._stopping = True  # no event: its lock may be held by the very code that a signal interrupts

    def run(self, on_tick: Callable[[], None], tick_seconds: float = 1.0) -> None:
        """Keep everything running until it is told to stop.

        ``on_tick`` is called every ``tick_seconds`` in a thread of its own: what watches the rollout belongs there.
        """
        repeated = [
            Repeated("keeping servers running", self._keep, TICK_SECONDS, self._tell),
            Repeated("cutting logs", self._rotate, ROTATE_SECONDS, self._tell),
            Repeated("watching the rollout", on_tick, tick_seconds, self._tell),
        ]
        try:
            while not self._stopping:
                time.sleep(TICK_SECONDS)
        finally:
            for one in repeated:
                one.end(CALL_SECONDS)

    def _make(self) -> Gateway:
        plan, folder = self._plan, self._plan.folder.resolve()
        host, port = listening_place(plan.host, plan.port)
        champion, challenger, admin = _three_ports(port)
        self._places = Places(host, port, admin, champion, challenger, folder)
        self._admin = EnvoyAdmin(f"http://127.0.0.1:{admin}")
        self._logs = {alias: folder / f"{alias}.log" for alias in (CHAMPION, CHALLENGER)}
        ports = {CHAMPION: champion, CHALLENGER: challenger}
        self._servers = {
            alias: Child(
                f"the {alias}'s server",
                self._serve(alias, ports[alias], log),
                folder / f"serve-{alias}.txt",
                self._tell,
            )
            for alias, log in self._logs.items()
        }
        self._envoy = envoy(self._places, self._tell)
        shown = f"[{host}]" if ":" in host else host
        return Gateway(
            name=plan.name,
            address=f"http://{shown}:{port}",
            admin=f"http://127.0.0.1:{admin}",
            folder=folder,
            access_log=self._places.access_log,
            champion_log=self._logs[CHAMPION],
            challenger_log=self._logs[CHALLENGER],
            pid=os.getpid(),
        )

    def _start(self, gateway: Gateway) -> None:
        self._servers[CHAMPION].start()
        self._looking = Repeated("looking for a challenger", self._look, LOOK_SECONDS, self._tell)
        write_files(self._places, self._plan.shadow)
        self._await_champion()
        if self._stopping:
            return
        self._envoy.start()
        await_ready(self._envoy, self._admin)
        publish(gateway)
        self.gateway = gateway

    def _await_champion(self) -> None:
        server = self._servers[CHAMPION]
        while not self._stopping and not _ready(self._places.champion_port):
            status = server.exit_status
            if status is not None:
                kind = BadInputError if status == BadInputError.exit_code else InfrastructureError
                raise kind(f"{self._plan.name} cannot be served: {server.last_words()}")
            time.sleep(TICK_SECONDS)

    def _look(self) -> None:
        self._challenger_wanted = self._has_challenger()

    def _keep(self) -> None:
        for child in (*self._servers.values(), self._envoy):
            child.keep_running()
        challenger = self._servers[CHALLENGER]
        if self._challenger_wanted and not challenger.wanted:
            challenger.start()
            self._tell("there is a challenger: its server starts")
        elif challenger.wanted and not self._challenger_wanted:
            challenger.ask_to_end(SERVER_END_SECONDS)

    def _rotate(self) -> None:
        with suppress(InfrastructureError):  # Envoy opens the new file when it can be told, or starts again
            rotate_renamed(self._places.access_log, self._admin.reopen_logs)
        for log in (*self._logs.values(), self._places.own_log):
            rotate_copied(log)

    def _end(self) -> None:
        """End Envoy when it has answered what it took, and then the servers, which nobody asks any more."""
        if self._looking is not None:
            self._looking.end(0)
        if self._envoy.pid is not None:
            with suppress(InfrastructureError):
                self._admin.stop_listening()
                deadline = time.monotonic() + DRAIN_SECONDS
                while self._admin.active() and time.monotonic() < deadline:
                    time.sleep(TICK_SECONDS)
        self._envoy.end(ENVOY_END_SECONDS)
        for server in self._servers.values():
            server.ask_to_end(SERVER_END_SECONDS)  # both at once
        for server in self._servers.values():
            server.end(SERVER_END_SECONDS)


def _three_ports(listening: int) -> tuple[int, int, int]:
    taken = frozenset({listening})
    ports = []
    for _ in range(3):
        ports.append(port := free_port(taken=taken))
        taken |= {port}
    return ports[0], ports[1], ports[2]


def _ready(port: int) -> bool:
    """Whether the server there says that it is ready."""
    try:
        place = f"http://127.0.0.1:{port}/v2/health/ready"
        with urllib.request.urlopen(place, timeout=READY_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, HTTPException, OSError):
        return False
