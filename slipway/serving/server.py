"""The process that serves one engine over HTTP."""

from __future__ import annotations

import socket
from typing import TextIO

import uvicorn

from slipway.errors import BadInputError
from slipway.serving.access_log import AccessLog
from slipway.serving.app import InferenceServer
from slipway.serving.limits import Limits
from slipway.serving.served import ServedModel


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; 0 takes a free port.

    Raises:
        BadInputError: the address is taken or not this host's.
    """
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise BadInputError(f"cannot listen on {host}:{port}: {error}; give another --host or --port") from error


def serve(model: ServedModel, limits: Limits, listening: socket.socket, access_log: TextIO | None = None) -> None:
    """Answer requests until SIGTERM or SIGINT, and then those that were taken already."""
    app = InferenceServer(model, limits, AccessLog(access_log)).app()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.drain_seconds),
    )
    uvicorn.Server(config).run([listening])
