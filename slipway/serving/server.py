"""HTTP on a socket: where it listens, and what it lets a connection do."""

from __future__ import annotations

import signal
import socket

import uvicorn

from slipway.errors import BadInputError
from slipway.serving.app import InferenceServer
from slipway.serving.http_guard import guarded
from slipway.serving.limits import Limits

IDLE_SECONDS = 5


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; 0 takes a free port.

    Raises:
        BadInputError: the address is taken or not this host's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        created = socket.create_server((host, port), family=family, backlog=2048)
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
    config = uvicorn.Config(
        answering.app(),
        http=guarded(limits),
        limit_concurrency=limits.connections,
        timeout_keep_alive=IDLE_SECONDS,
        ws="none",
        log_config=None,
        log_level="error",  # below it any client could fill stderr
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(limits.drain_seconds),
    )
    return uvicorn.Server(config)


def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT, or until it should exit; and then those that were taken already."""
    # Once it has ended, uvicorn raises the signal anew for whoever handled it before; here that is nobody.
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run([listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
