"""Where the servers of one project listen and keep what they keep."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slipway.errors import BadInputError, nearest
from slipway.wiring import STATE_DIRECTORY

HOST = "127.0.0.1"
PORTS = {
    # PostgreSQL and Redis leave their usual ports to the host's own.
    "postgres": 15432,
    "redis": 16379,
    "seaweedfs": 8333,
    "seaweedfs-s3-grpc": 18333,
    "seaweedfs-master": 9333,
    "seaweedfs-master-grpc": 19333,
    "seaweedfs-volume": 9340,
    "seaweedfs-volume-grpc": 19340,
    "seaweedfs-filer": 9888,
    "seaweedfs-filer-grpc": 19888,
    "mlflow": 5000,
    "prefect-api": 4200,
    "receiver": 8123,
}
# Below the ports that Linux gives to outgoing connections (32768 and up), which could take one between two starts.
FREE_FROM, FREE_TO = 20000, 32000
PRIVATE = 0o600


class Layout:
    """Everything lies under ``root/.slipway/stack``: ``data``, ``logs``, ``run``, ``config`` and the keys."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.folder = self.root / STATE_DIRECTORY / "stack"

    @property
    def environment_file(self) -> Path:
        """What people source."""
        return self.folder / "environment"

    @property
    def admin_file(self) -> Path:
        """What the administrator of MLflow sources."""
        return self.folder / "admin"

    def data(self, service: str) -> Path:
        """What the service keeps."""
        return self.folder / "data" / service

    def log(self, service: str) -> Path:
        """What it prints."""
        return self.folder / "logs" / f"{service}.txt"

    def run(self, service: str) -> Path:
        """Which process it is."""
        return self.folder / "run" / f"{service}.json"

    def config(self, name: str) -> Path:
        """A file that it reads."""
        return self.folder / "config" / name

    def make(self) -> None:
        """Make the folder, closed to other people.

        Raises:
            BadInputError: it cannot be made.
        """
        try:
            for name in ("data", "logs", "run", "config"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise BadInputError(
                f"cannot make {error.filename or self.folder}: {error.strerror}; work in a directory that can be "
                "written to"
            ) from error

    def ports(self, chosen: Mapping[str, int] | None) -> dict[str, int]:
        """The port of each listener: chosen now, or an earlier time, or the default.

        Raises:
            BadInputError: a name or a number is none, or two listeners have the same.
        """
        kept = self._kept_ports()
        ports = PORTS | kept | checked_ports(chosen or {})
        taken: dict[int, str] = {}
        for name, port in ports.items():
            if port in taken:
                raise BadInputError(f"port {port} is asked for by {taken[port]} and by {name}; give each its own")
            taken[port] = name
        return ports

    def keep_ports(self, ports: Mapping[str, int]) -> None:
        """Let the next command find the servers where this one puts them."""
        write_private(self.folder / "ports.json", json.dumps(dict(ports), indent=2) + "\n")

    def _kept_ports(self) -> dict[str, int]:
        file = self.folder / "ports.json"
        kept = {name: port for name, port in read_json(file).items() if name in PORTS}
        for name, port in kept.items():
            if not isinstance(port, int):
                raise BadInputError(f"{file} gives {name} the port {port!r}; put it right, or remove it")
        return checked_ports(kept)


def checked_ports(chosen: Mapping[str, int]) -> dict[str, int]:
    """The same ports.

    Raises:
        BadInputError: a name or a number is none.
    """
    for name, port in chosen.items():
        if name not in PORTS:
            raise BadInputError(f"nothing listens as {name!r}{nearest(name, PORTS)}; there are {', '.join(PORTS)}")
        if not 0 < port < 2**16:
            raise BadInputError(f"port {port!r} of {name} is none: give a number from 1 to 65535")
    return dict(chosen)


def free_ports(names: Iterable[str] = tuple(PORTS)) -> dict[str, int]:
    """A port for each listener that nobody listens on now, none of which an outgoing connection could take."""
    wanted, found = list(names), list[int]()
    for port in random.sample(range(FREE_FROM, FREE_TO), FREE_TO - FREE_FROM):
        if len(found) == len(wanted):
            break
        if is_free(port):
            found.append(port)
    return dict(zip(wanted, found, strict=True))


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this host."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError:
            return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object; empty where there is no such file.

    Raises:
        BadInputError: the file holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInputError(f"cannot read {path}: {error}; put it right, or remove it") from error
    if not isinstance(found, dict):
        raise BadInputError(f"{path} holds no JSON object; put it right, or remove it")
    return found


def write_private(path: Path, text: str) -> None:
    """Write at once and whole, readable by nobody else at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w", encoding="utf-8") as stream:
        stream.write(text)
    part.replace(path)
