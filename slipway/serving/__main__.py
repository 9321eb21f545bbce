"""The process that answers: ``python -m slipway.serving CHANNEL LISTENING [LOG]``, which are file descriptors."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from io import FileIO

from slipway.errors import InfrastructureError
from slipway.serving.answering.memory import keep_large_buffers
from slipway.serving.answering.repository import Repository
from slipway.serving.http.access_log import AccessLog
from slipway.serving.http.app import InferenceServer
from slipway.serving.http.metrics import Metrics
from slipway.serving.http.server import http_server, run
from slipway.serving.http.tracing import traces_of
from slipway.serving.processes.messages import ORDERS, Answer, Channel, Ready, Start
from slipway.serving.processes.steward import Steward


def main(channel_fd: int, listening_fd: int, log_fd: int | None) -> int:
    """Open what is ordered, answer until the end is ordered, and return the exit status."""
    for descriptor in (channel_fd, listening_fd, *([] if log_fd is None else [log_fd])):
        os.set_inheritable(descriptor, False)
    keep_large_buffers()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # that is for the supervising process
    channel = Channel(socket.socket(fileno=channel_fd), ORDERS)
    orders = channel.each()
    start = next(orders, None)
    if not isinstance(start, Start):
        return 0
    metrics, repository = Metrics(), Repository(start.limits)
    steward = Steward(channel, orders, repository, metrics)
    steward.start(start)
    with suppress(OSError):  # then no order follows
        channel.send(Ready())
    drained = True
    if isinstance(next(orders, None), Answer):
        log = AccessLog(None if log_fd is None else FileIO(log_fd, "w"))
        traces = traces_of(os.environ)
        answering = InferenceServer(repository, start.limits, log, metrics, lambda: steward.run(end), traces)
        server = http_server(answering, start.limits)
        end = partial(setattr, server, "should_exit", True)
        run(server, socket.socket(fileno=listening_fd))
        drained = answering.drained
    else:
        steward.orphaned = True
    if steward.orphaned:
        shutil.rmtree(start.folder, ignore_errors=True)
    if not drained:
        sys.stderr.write(f"the engine had not answered after {start.limits.drain_seconds:g} s; its call was left\n")
    return 0 if drained else InfrastructureError.exit_code


if __name__ == "__main__":
    status = main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
    sys.stderr.flush()
    os._exit(status)  # Python would wait for a thread that is in an engine
