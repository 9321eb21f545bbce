"""Whether a server answers."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

from infra.stack.layout import HOST

ANSWER_SECONDS = 5


def answers_http(url: str) -> bool:
    """Whether it says that all is well."""
    try:
        urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()  # noqa: S310 - an address of this host
    except (urllib.error.URLError, OSError):
        return False
    return True


def answers_tcp(port: int) -> bool:
    """Whether it takes connections."""
    try:
        socket.create_connection((HOST, port), ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
