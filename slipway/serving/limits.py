"""What a server lets a client ask of it, and how a body is read within that."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

from starlette.requests import Request

from slipway.errors import SlipwayError

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True)
class Limits:
    """Bounds on one request, and on how many may wait."""

    body_bytes: int = 64 * 2**20
    body_seconds: float = 30.0
    batch: int = 128
    waiting: int = 64
    request_seconds: float = 30.0
    drain_seconds: float = 20.0


class RefusedError(SlipwayError):
    """A request that is not answered, with the HTTP ``status`` that says why, and the ``cause`` it is counted under."""

    def __init__(self, status: int, cause: str, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status, self.cause, self.retry_after_seconds = status, cause, retry_after_seconds


async def read_body(request: Request, limits: Limits) -> bytes:
    """The request's body, decompressed.

    Raises:
        RefusedError: it is larger than allowed, as sent or decompressed, comes too slowly, or is damaged.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limits.body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _received(request, limits)
    except TimeoutError:
        message = f"the body did not come within {limits.body_seconds:g} s; send it at once"
        raise RefusedError(408, "slow body", message) from None
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        raise RefusedError(415, "encoding", f"content-encoding {encoding!r} is not known; send gzip, deflate or none")
    return _decompressed(body, encoding, limits)


async def _received(request: Request, limits: Limits) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body_bytes:
            raise _too_large(limits)
        chunks.append(chunk)
    return b"".join(chunks)


def _decompressed(body: bytes, encoding: str, limits: Limits) -> bytes:
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        whole = stream.decompress(body, limits.body_bytes)
    except zlib.error as error:
        raise RefusedError(400, "bad request", f"the body is not {encoding}: {error}") from error
    if stream.unconsumed_tail:
        raise _too_large(limits)
    if not stream.eof:
        raise RefusedError(400, "bad request", f"the body's {encoding} ends too early")
    return whole


def _too_large(limits: Limits) -> RefusedError:
    message = f"the body is larger than the {limits.body_bytes} bytes allowed; send fewer examples at a time"
    return RefusedError(413, "too large", message)
