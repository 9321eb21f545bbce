"""What the process that supervises and the one that serves say to each other: one JSON object per line, either way."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter

from slipway.records import Record
from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.http.limits import Limits

CHUNK_BYTES = 1 << 16


class Start(Record):
    """Open these engines, telling of each `Opened` or `Refused`, and at last `Ready`.

    ``refusals`` tell by model why what its alias names is not served; ``restarts`` how often the process had to be
    started anew. ``folder`` holds all files: whoever outlives the other removes it.
    """

    do: Literal["start"] = "start"
    engines: tuple[LocalEngine, ...]
    refusals: dict[str, str]
    limits: Limits
    restarts: int
    folder: Path


class Answer(Record):
    """Answer requests from now on."""

    do: Literal["answer"] = "answer"


class Swap(Record):
    """Open the engine beside the one that serves its model and let it take its place; `Opened` or `Refused` follows."""

    do: Literal["swap"] = "swap"
    engine: LocalEngine


class Refuse(Record):
    """Tell clients why what the alias of the model names is not served, counted as ``outcome``."""

    do: Literal["refuse"] = "refuse"
    name: str
    reason: str
    outcome: str


class Unload(Record):
    """Serve the model no more; `Closed` follows."""

    do: Literal["unload"] = "unload"
    name: str


class Reach(Record):
    """Whether the registry can be asked; ``reason`` why not."""

    do: Literal["reach"] = "reach"
    reason: str | None


class End(Record):
    """Answer what was taken, and end."""

    do: Literal["end"] = "end"


class Opened(Record):
    """The engine ``order`` serves its model from now on; ``notes`` are for a person."""

    said: Literal["opened"] = "opened"
    order: int
    notes: tuple[str, ...]


class Refused(Record):
    """The engine ``order`` is not served; ``kind`` is the exception's class."""

    said: Literal["refused"] = "refused"
    order: int
    kind: str
    error: str


class Closed(Record):
    """The engine ``order`` has answered its last request, and its files are needed no more."""

    said: Literal["closed"] = "closed"
    order: int


class Ready(Record):
    """Every engine of `Start` was opened or refused."""

    said: Literal["ready"] = "ready"


Order: TypeAlias = Start | Answer | Swap | Refuse | Unload | Reach | End
Report: TypeAlias = Opened | Refused | Closed | Ready

ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="do")])
REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="said")])

Heard = TypeVar("Heard")


class Channel(Generic[Heard]):
    """One end of a socket on which records are sent, and read as ``heard`` tells."""

    def __init__(self, end: socket.socket, heard: TypeAdapter[Heard]) -> None:
        self._socket, self._heard, self._received = end, heard, b""

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, message: Record) -> None:
        """Send one message.

        Raises:
            OSError: the other process has ended, or takes nothing.
        """
        # Not pydantic's own JSON, which writes null for NaN.
        self._socket.sendall(json.dumps(message.model_dump(mode="json")).encode() + b"\n")

    def receive(self) -> list[Heard] | None:
        """Wait until something arrives; the whole messages that it ended, or None once the other process has ended."""
        try:
            chunk = self._socket.recv(CHUNK_BYTES)
        except ConnectionResetError:  # it was killed, and had not read everything
            chunk = b""
        if not chunk:
            return None
        *lines, self._received = (self._received + chunk).split(b"\n")
        return [self._heard.validate_json(line) for line in lines]

    def each(self) -> Iterator[Heard]:
        """Every message until the other process ends."""
        while (messages := self.receive()) is not None:
            yield from messages

    def close(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()
