"""How answers are gathered and sent; what clients may do to a real socket is tested with real servers."""

from __future__ import annotations

import asyncio

import pytest

from slipway.serving.http.http_guard import GATHERED_BYTES, _GatheringTransport


class Wire(asyncio.Transport):
    """Keeps what is sent, piece by piece, as if the client read none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.sent))


async def written(*pieces: bytes, close: bool = False) -> Wire:
    """What is on the wire one turn of the event loop after the pieces were written."""
    wire = Wire()
    transport = _GatheringTransport(wire, asyncio.get_running_loop())
    for piece in pieces:
        transport.write(piece)
    assert (transport.unread, transport.read) == (sum(map(len, pieces)), 0)
    if close:
        transport.close()
        transport.write(b"too late")
    else:
        await asyncio.sleep(0)
    return wire


@pytest.mark.parametrize("close", [False, True])
def test_what_is_written_at_once_is_sent_in_one_go_and_before_the_end(close: bool) -> None:
    wire = asyncio.run(written(b"head", b"body", close=close))
    assert (wire.sent, wire.closed) == ([b"headbody"], close)


def test_what_is_large_is_sent_as_it_is_behind_what_came_before() -> None:
    large = bytes(GATHERED_BYTES)
    assert asyncio.run(written(b"head", large, b"tail")).sent == [b"head", large, b"tail"]


def test_a_connection_that_was_lost_is_sent_nothing() -> None:
    async def lost() -> Wire:
        wire = Wire()
        transport = _GatheringTransport(wire, asyncio.get_running_loop())
        transport.write(b"head")
        wire.closed = True
        await asyncio.sleep(0)
        return wire

    assert asyncio.run(lost()).sent == []
