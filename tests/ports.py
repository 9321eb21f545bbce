"""Ports for the servers of tests, which nobody else takes before they listen: no other worker, and no connection."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from infra.stack.layout import is_free

# Below the ports that Slipway itself finds free, and those that Linux gives to outgoing connections.
FREE_FROM, FREE_TO = 10_000, 20_000
_given: set[int] = set()


def free_port() -> int:
    """A port on which nobody listens, and which no test of this host is given again while this process runs."""
    for port in random.sample(range(FREE_FROM, FREE_TO), FREE_TO - FREE_FROM):
        if port not in _given and _reserved(port) and is_free(port):
            _given.add(port)
            return port
    raise AssertionError(f"no port from {FREE_FROM} to {FREE_TO} is free")


def free_ports(names: Iterable[str]) -> dict[str, int]:
    """One for each name."""
    return {name: free_port() for name in names}


@functools.cache
def _locks() -> BinaryIO:
    """A file whose every byte stands for a port, and is locked by the process that has it; its end frees them."""
    return Path(tempfile.gettempdir(), f"slipway-tests-ports-{os.getuid()}.lock").open("ab")


def _reserved(port: int) -> bool:
    try:
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:  # another process has it
        return False
    return True
