"""HTTP on a socket: where it listens, and what it lets a connection do."""

from __future__ import annotations

import resource
import signal
import socket
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette

from slipway.errors import BadInputError
from slipway.serving.http.app import InferenceServer
from slipway.serving.http.http_guard import guarded
from slipway.serving.http.limits import Limits

IDLE_SECONDS = 5
BACKLOG = 2048
AT_ONCE, TURNS = 128, 8  # connections accepted per turn of the event loop; turns until one that is closed has gone
REFUSED_CONNECTIONS = 512  # that are answered with 503; further ones are closed unanswered
OWN_FILES = 512


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; 0 takes a free port.

    Raises:
        BadInputError: the address is taken or not this host's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        created = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        raise BadInputError(f"cannot listen on {host}:{port}: {error}; give another --host or --port") from error
    # Taken up anew it knows that it speaks TCP. Only then does asyncio turn off Nagle's algorithm, which with the
    # delayed acknowledgement of some clients holds an answer back for 40 ms.
    return socket.socket(fileno=created.detach())


def address(listening: socket.socket) -> str:
    """Where the protocol is spoken."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/v2" if listening.family == socket.AF_INET6 else f"http://{host}:{port}/v2"


def http_server(answering: InferenceServer, limits: Limits) -> uvicorn.Server:
    """What speaks HTTP for ``answering``; its ``should_exit`` may be set from any thread."""
    most = limits.connections + REFUSED_CONNECTIONS
    files = open_files(most + AT_ONCE * TURNS + OWN_FILES)
    room = files - min(OWN_FILES, files // 4)
    at_once = max(min(AT_ONCE, room // (2 * TURNS)), 1)
    most = min(most, room - at_once * TURNS)
    config = guarded_config(
        answering.app(),
        limits,
        most,
        limit_concurrency=min(limits.connections, max(most - REFUSED_CONNECTIONS, most // 2)),
        backlog=at_once,  # which asyncio accepts in one turn
        log_level="error",
    )
    return _Server(config)


def guarded_config(app: Starlette, limits: Limits, connections: int, **own: Any) -> uvicorn.Config:
    """The settings of uvicorn for ``app``, which keeps so many ``connections`` open at most, and its ``own``.

    Below the level "error" any client could fill stderr.
    """
    return uvicorn.Config(
        app,
        http=guarded(limits, connections),
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(limits.drain_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        **own,
    )


class _Server(uvicorn.Server):
    """Accepts a few connections at once, and lets more of them wait, which asyncio knows as one number."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)


def open_files(wanted: int) -> int:
    """Let this process have so many files open, if the system grants them; how many it may have.

    Where they are used up nobody can connect any more nor an engine be opened, and asyncio complains without end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        with suppress(ValueError, OSError):  # what the system does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return soft


def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT, or until it should exit; and then those that were taken already."""
    # Once it has ended, uvicorn raises the signal anew for whoever handled it before; here that is nobody.
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run([listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
