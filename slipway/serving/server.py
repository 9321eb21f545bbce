"""The process that serves one engine over HTTP."""

from __future__ import annotations

import signal
import socket

import uvicorn

from slipway.errors import BadInputError
from slipway.serving.access_log import AccessLog, Sink
from slipway.serving.app import InferenceServer
from slipway.serving.limits import Limits
from slipway.serving.served import ServedModel

HEADERS_BYTES = 64 * 2**10
IDLE_SECONDS = 5


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; 0 takes a free port.

    Raises:
        BadInputError: the address is taken or not this host's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        raise BadInputError(f"cannot listen on {host}:{port}: {error}; give another --host or --port") from error


def address(listening: socket.socket) -> str:
    """Where the protocol is spoken."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/v2" if listening.family == socket.AF_INET6 else f"http://{host}:{port}/v2"


def serve(model: ServedModel, limits: Limits, listening: socket.socket, access_log: Sink | None = None) -> bool:
    """Answer requests until SIGTERM or SIGINT, and then those that were taken already; whether all of them were."""
    answering = InferenceServer(model, limits, AccessLog(access_log))
    config = uvicorn.Config(
        answering.app(),
        http="h11",  # it alone bounds the headers, whichever others are installed
        h11_max_incomplete_event_size=HEADERS_BYTES,
        limit_concurrency=limits.connections,
        timeout_keep_alive=IDLE_SECONDS,
        ws="none",
        log_config=None,
        log_level="error",  # below it any client could fill stderr
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.drain_seconds),
    )
    server = uvicorn.Server(config)
    # Once it has ended, uvicorn raises the signal anew for whoever handled it before; here that is nobody.
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run([listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return answering.drained
