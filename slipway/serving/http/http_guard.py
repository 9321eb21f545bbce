"""Protection of the connections: what uvicorn and its parser do not bound in time or size."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from slipway.serving.http.limits import Limits

HEADERS_BYTES = 64 * 2**10
PIPELINED = 100  # requests that may come before the first of them is answered
LEAST_BYTES_PER_S = 4096  # that a client has to read of its answer
# Of a body, before the application asks for it: by all connections together, and by one of them.
READ_AHEAD_BYTES, MOST_AHEAD_BYTES, LEAST_AHEAD_BYTES = 64 * 2**20, 2**20, 2**16
SMALL_BYTES = 4096
GATHERED_BYTES = 2**16  # more is sent as it is: to put it together would be to copy it

_TOLD = b"the request's headers did not come in time\n"
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_TOLD), _TOLD)
)


class TooMuchError(Exception):
    """The parser is told to stop; it makes an error of its own of it."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP connection, which a client can keep neither with headers nor with an answer that it does not read.

    A request's headers have to be there ``header_seconds`` after the connection was opened, or after their first byte
    on one that was kept; the same time is given for the rest of a body that was refused. Of an answer
    ``LEAST_BYTES_PER_S`` have to be read on average of ``send_seconds``. What is neither body nor the headers of one
    request takes ``HEADERS_BYTES`` at most. Beyond ``most_connections`` a new one is closed at once: idle ones too take
    files, of which a process has so many.
    """

    header_seconds: ClassVar[float]
    send_seconds: ClassVar[float]
    most_connections: ClassVar[int]

    _sending: _GatheringTransport
    _headers_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    _read_before = 0
    _in_headers = _in_body = False
    _headers_bytes = 0  # of the names and values that the parser has told of
    _silent_bytes = 0  # since the parser told of a beginning, of a body, or of an end
    _told = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        self._sending = _GatheringTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._sending))
        if len(self.connections) > self.most_connections:
            self.transport.abort()
            return
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._unwatch_headers()
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def data_received(self, data: bytes) -> None:
        """Take what came; if no request follows from it, its headers, or the rest of a refused body, are awaited."""
        self._told = False
        super().data_received(data)
        self._silent_bytes = 0 if self._told else self._silent_bytes + len(data)
        if self._silent_bytes > HEADERS_BYTES:
            self.send_400_response("Headers too large.")
        elif self._asking:
            self._unwatch_headers()
        else:
            self._watch_headers()

    def on_message_begin(self) -> None:
        """A request begins, of which there may be only so many."""
        if len(self.pipeline) >= PIPELINED:
            raise TooMuchError
        self._told = self._in_headers = True
        self._headers_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._add(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers, or of the trailers behind its body."""
        self._add(len(name) + len(value) + len(": \r\n"))
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """All of its headers are there."""
        self._in_headers, self._in_body = False, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of its body, which is handed on once there is enough of it to be worth it."""
        self._told = True
        cycle = self.cycle
        if cycle.response_complete:
            return
        pieces = cycle.body
        if not isinstance(pieces, _Pieces):
            pieces = cycle.body = _Pieces()
        pieces.add(body)
        share = READ_AHEAD_BYTES // max(len(self.connections), 1)
        if pieces.size > min(max(share, LEAST_AHEAD_BYTES), MOST_AHEAD_BYTES):
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._told, self._in_body = True, False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, and end the connection.

        Requests that came before are answered first. There is no second answer to one that was answered already.
        """
        if self._asking and not self._in_body:
            self.cycle.keep_alive = False
            self._sending.pause_reading()
        elif self._in_body and (not self._asking or self.cycle.response_started or self.pipeline):
            self.transport.close()
        else:
            super().send_400_response(msg)
        self._watch_answer()

    def on_response_complete(self) -> None:
        """Send what there is of the answer, and wait for the client to read it."""
        self._sending.flush()
        super().on_response_complete()
        self._watch_answer()

    def pause_writing(self) -> None:
        """Wait for the client to read what there is of the answer."""
        super().pause_writing()
        self._watch_answer()

    @property
    def _asking(self) -> bool:
        """Whether there is a request that is not answered yet."""
        return not getattr(self.cycle, "response_complete", True)  # there is no cycle before the first one

    def _add(self, size: int) -> None:
        self._headers_bytes += size
        if self._headers_bytes > HEADERS_BYTES:
            raise TooMuchError

    def _watch_headers(self) -> None:
        if self._headers_timer is None and not self.transport.is_closing():
            self._headers_timer = self.loop.call_later(self.header_seconds, self._headers_late)

    def _unwatch_headers(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _headers_late(self) -> None:
        self._headers_timer = None
        if self._in_headers:
            self.transport.write(TOO_SLOW)
        self.transport.close()
        self._watch_answer()

    def _watch_answer(self) -> None:
        if self._answer_timer is None and self._sending.unread:
            self._read_before = self._sending.read
            self._answer_timer = self.loop.call_later(self.send_seconds, self._answer_late)

    def _answer_late(self) -> None:
        self._answer_timer = None
        if self._sending.unread and self._sending.read - self._read_before < LEAST_BYTES_PER_S * self.send_seconds:
            self.transport.abort()
        else:
            self._watch_answer()


class _Pieces(bytearray):
    """A body as it came, put together once it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._pieces: list[bytes | bytearray] = []

    def add(self, piece: bytes) -> None:
        """The next one; small ones are put together at once, as each would take more room than it holds."""
        self.size += len(piece)
        if len(piece) > SMALL_BYTES:
            self._pieces.append(piece)
        elif self._pieces and isinstance(last := self._pieces[-1], bytearray):
            last += piece
        else:
            self._pieces.append(bytearray(piece))

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


class _GatheringTransport:
    """A transport that sends what is written in one go, and tells how much of it the client has taken.

    The server writes an answer's head and its body one after the other, and each would be sent, and wake the client,
    by itself. Otherwise it is the transport that it wraps.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._gathered = b""
        self._written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send soon, and count; nothing after the end, which is an error in some event loops and logged by others."""
        if self._transport.is_closing():
            return
        if large := len(self._gathered) + len(data) > GATHERED_BYTES:
            self.flush()
        self._written += len(data)
        if large:
            self._transport.write(data)
            return
        if not self._gathered:
            self._loop.call_soon(self.flush)
        self._gathered += data

    def flush(self) -> None:
        """Send what was gathered."""
        gathered, self._gathered = self._gathered, b""
        if gathered and not self._transport.is_closing():
            self._transport.write(gathered)

    def close(self) -> None:
        """Close the connection once all of it is sent."""
        self.flush()
        self._transport.close()

    @property
    def unread(self) -> int:
        """The bytes that the client has left no room for."""
        return self._transport.get_write_buffer_size() + len(self._gathered)

    @property
    def read(self) -> int:
        """The bytes that the client has taken, or has room for."""
        return self._written - self.unread


def guarded(limits: Limits, connections: int) -> type[GuardedProtocol]:
    """The protocol for ``uvicorn.Config(http=...)``, which keeps so many ``connections`` open at most."""

    class Guarded(GuardedProtocol):
        """Within these limits."""

        header_seconds = limits.header_seconds
        send_seconds = limits.send_seconds
        most_connections = connections

    return Guarded
