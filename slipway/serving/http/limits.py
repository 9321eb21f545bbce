"""What a server lets a client ask of it, and how a body is read within that."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

from starlette.requests import Request

from slipway.errors import SlipwayError
from slipway.serving.answering.batching import AskedBatching

RETRY_AFTER_SECONDS = 1
INLINE_BYTES = 64 * 2**10
MAX_DIGITS = 19  # of a length that a header tells

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True)
class Limits:
    """Bounds on one request and on its connection, on how many may wait, and on how many the engine answers at once."""

    body_bytes: int = 64 * 2**20
    body_seconds: float = 30.0
    batch: int = 128
    waiting: int = 64
    request_seconds: float = 30.0
    drain_seconds: float = 20.0
    header_seconds: float = 10.0
    send_seconds: float = 30.0
    batching: AskedBatching = None

    @property
    def bodies_bytes(self) -> int:
        """What the bodies of all unanswered requests may take together."""
        return 4 * self.body_bytes

    @property
    def connections(self) -> int:
        """How many may be open at once, asking or idle."""
        return max(1024, 2 * self.waiting)


class RefusedError(SlipwayError):
    """A request that is not answered, with the HTTP ``status`` that says why, and the ``cause`` it is counted under."""

    def __init__(self, status: int, cause: str, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status, self.cause, self.retry_after_seconds = status, cause, retry_after_seconds


class Bodies:
    """The bytes of all bodies that are being received or answered: many small limits do not add up to a large one."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.taken_bytes = 0

    @contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """A function that takes so many bytes more; all that it took is given back at the end.

        Raises:
            RefusedError: (the function) there are too many already.
        """
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self.taken_bytes + size > self._limits.bodies_bytes:
                message = f"the requests at hand hold {self.taken_bytes} bytes already; try again later"
                raise RefusedError(503, "overload", message, RETRY_AFTER_SECONDS)
            self.taken_bytes += size
            own += size

        try:
            yield take
        finally:
            self.taken_bytes -= own


async def beside(size: int, work: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """What ``work`` gives, done in a thread where it works on more than a few bytes, so that the event loop goes on."""
    return await asyncio.to_thread(work, *arguments) if size > INLINE_BYTES else work(*arguments)


async def read_body(request: Request, limits: Limits, take: Callable[[int], None]) -> bytes:
    """The request's body, decompressed; its bytes are told to ``take``, which may refuse them.

    Raises:
        RefusedError: it is larger than allowed, as sent or decompressed, comes too slowly, or is damaged.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and (len(told) > MAX_DIGITS or int(told) > limits.body_bytes):
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _received(request, limits, take)
    except TimeoutError:
        message = f"the body did not come within {limits.body_seconds:g} s; send it at once"
        raise RefusedError(408, "slow body", message) from None
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        raise RefusedError(415, "encoding", f"content-encoding {encoding!r} is not known; send gzip, deflate or none")
    # However few bytes they are, they may become as many as are allowed.
    whole = await asyncio.to_thread(_decompressed, body, encoding, limits)
    take(len(whole))
    return whole


async def _received(request: Request, limits: Limits, take: Callable[[int], None]) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body_bytes:
            raise _too_large(limits)
        take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _decompressed(body: bytes, encoding: str, limits: Limits) -> bytes:
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        whole = stream.decompress(body, limits.body_bytes + 1)
    except zlib.error as error:
        raise RefusedError(400, "bad request", f"the body is not {encoding}: {error}") from error
    if len(whole) > limits.body_bytes:
        raise _too_large(limits)
    if not stream.eof:
        raise RefusedError(400, "bad request", f"the body's {encoding} ends too early")
    if stream.unused_data:
        raise RefusedError(400, "bad request", f"{len(stream.unused_data)} bytes follow the body's {encoding}")
    return whole


def _too_large(limits: Limits) -> RefusedError:
    message = f"the body is larger than the {limits.body_bytes} bytes allowed; send fewer examples at a time"
    return RefusedError(413, "too large", message)
