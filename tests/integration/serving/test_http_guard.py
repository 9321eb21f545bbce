"""Clients that are slow, silent or no clients at all, against a real socket."""

from __future__ import annotations

import hashlib
import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from slipway.serving.http.http_guard import HEADERS_BYTES, MOST_AHEAD_BYTES, PIPELINED, READ_AHEAD_BYTES, guarded
from slipway.serving.http.limits import Bodies, Limits, RefusedError, read_body

pytestmark = pytest.mark.integration

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_S = 30.0
LARGE = 64 * 2**20
LIMITS = Limits(body_bytes=2**20, body_seconds=0.5, header_seconds=0.5, send_seconds=1)


def application(limits: Limits) -> Starlette:
    """Reads bodies as the inference server does, and gives a large answer."""
    bodies, large = Bodies(limits), bytes(LARGE)

    async def take(request: Request) -> Response:
        try:
            with bodies.held() as more:
                return PlainTextResponse(hashlib.sha256(await read_body(request, limits, more)).hexdigest())
        except RefusedError as error:
            return PlainTextResponse(str(error), error.status)
        except ClientDisconnect:
            return Response(status_code=499)

    async def small(_: Request) -> Response:
        return PlainTextResponse("here")

    async def give(_: Request) -> Response:
        return Response(large)

    return Starlette(routes=[Route("/", small), Route("/", take, methods=["POST"]), Route("/large", give)])


@dataclass(frozen=True)
class Place:
    """A server that is up."""

    port: int
    server: uvicorn.Server

    def connect(self, buffer: int | None = None) -> socket.socket:
        """A connection, whose answers may take only so many bytes on the way."""
        client = socket.socket()
        if buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", self.port))
        return client

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server.server_state.connections)

    def wait_for(self, met: Callable[[], bool]) -> None:
        """Until it is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not met():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def still_answers(self) -> None:
        """Anybody else is answered as if nothing had been."""
        with self.connect() as client:
            client.sendall(GET)
            assert received(client, b"here").startswith(b"HTTP/1.1 200")


@pytest.fixture
def place(caplog: pytest.LogCaptureFixture) -> Iterator[Place]:
    """The server, of which nothing was logged at the end."""
    with serving(LIMITS) as place:
        yield place
        place.still_answers()
    records = caplog.get_records("call") + caplog.get_records("teardown")
    assert [record.getMessage() for record in records if record.levelno >= logging.ERROR] == []


@contextmanager
def serving(limits: Limits, connections: int = 1000) -> Iterator[Place]:
    """A server in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            application(limits),
            http=guarded(limits, connections),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=5,
            timeout_keep_alive=2,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        port = listening.getsockname()[1]
        thread.start()
        try:
            place = Place(port, server)
            place.wait_for(lambda: server.started)
            yield place
        finally:
            server.should_exit = True
            thread.join()


def received(client: socket.socket, end: bytes | None = None) -> bytes:
    """What comes until the connection is closed, or until ``end``."""
    found = b""
    with suppress(ConnectionResetError):
        while end is None or end not in found:
            if not (piece := client.recv(2**16)):
                break
            found += piece
    return found


def trickled(client: socket.socket, data: bytes, each_s: float = 0.05) -> bytes:
    """Byte after byte, until the other side has closed; what it said."""
    client.settimeout(each_s)
    found = b""
    for byte in data:
        try:
            client.sendall(bytes([byte]))
            piece = client.recv(2**16)
        except TimeoutError:
            continue
        except OSError:
            return found
        if not piece:
            return found
        found += piece
    raise AssertionError(f"all of it was taken, and {found!r} answered")


def test_headers_that_trickle_in_are_cut_off(place: Place) -> None:
    begin = time.monotonic()
    with place.connect() as client:
        answer = trickled(client, b"GET / HTTP/1.1\r\n" + b"X-Slow: and slower still\r\n" * 100)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert LIMITS.header_seconds <= time.monotonic() - begin < PATIENCE_S


def test_a_connection_that_says_nothing_is_closed_without_a_word(place: Place) -> None:
    with place.connect() as client:
        assert received(client) == b""


def test_a_kept_connection_has_as_long_for_its_next_headers_from_their_first_byte(place: Place) -> None:
    with place.connect() as client:
        for _ in range(2):  # the second one after longer than the headers may take
            client.sendall(GET)
            assert received(client, b"here").startswith(b"HTTP/1.1 200")
            time.sleep(2 * LIMITS.header_seconds)
        assert trickled(client, GET[:-2] + b"X: y\r\n" * 1000).startswith(b"HTTP/1.1 408")


def test_headers_that_come_in_time_in_pieces_are_answered(place: Place) -> None:
    with place.connect() as client:
        for at in range(0, len(GET), 9):
            client.sendall(GET[at : at + 9])
            time.sleep(0.01)
        assert received(client, b"here").startswith(b"HTTP/1.1 200")


FLOODS = {
    "target": b"GET /",
    "value": b"GET / HTTP/1.1\r\nX: ",
    "name": b"GET / HTTP/1.1\r\n",
    "headers": b"GET / HTTP/1.1\r\n" + b"X: yyyy\r\n" * 10_000 + b"\r\n",
    "no request": b"\r\n" * 200_000,
    "chunk extension": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;",
    "trailer": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: ",
    "trailers": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    + b"X: yyyy\r\n" * 30_000,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_headers_and_the_like_that_never_end_are_refused_at_the_limit(kind: str) -> None:
    begin = time.monotonic()
    with serving(Limits(header_seconds=2 * PATIENCE_S, body_seconds=2 * PATIENCE_S)) as place:
        with place.connect() as client:
            with suppress(ConnectionError):
                client.sendall(FLOODS[kind])
                for _ in range(64):
                    client.sendall(b"x" * HEADERS_BYTES)
            answer = received(client)
        assert answer[:12] in {b"HTTP/1.1 400", b""}  # or reset before it was read
        place.wait_for(lambda: place.connections == 0)
        place.still_answers()
    assert time.monotonic() - begin < PATIENCE_S


def test_a_body_of_a_byte_now_and_then_is_refused_and_then_cut_off(place: Place) -> None:
    with place.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        answer = trickled(client, bytes(2000))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"the body did not come within 0.5 s" in answer


@pytest.mark.parametrize("ahead", [READ_AHEAD_BYTES, 0])
def test_bodies_of_any_size_arrive_whole_in_whatever_pieces(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway.serving.http.http_guard.READ_AHEAD_BYTES", ahead)
    limits = Limits(body_bytes=8 * MOST_AHEAD_BYTES)
    sizes = [0, 1, 2**16, 2**16 + 1, *(MOST_AHEAD_BYTES + more for more in (-1, 0, 1)), 5 * MOST_AHEAD_BYTES]

    def ask(place: Place, piece: int) -> None:
        with place.connect() as client:
            for size in sizes:
                body = random.Random(size).randbytes(size)
                sent = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + body
                for at in range(0, len(sent), piece):
                    client.sendall(sent[at : at + piece])
                digest = hashlib.sha256(body).hexdigest().encode()
                assert received(client, digest).startswith(b"HTTP/1.1 200")

    with serving(limits) as place, ThreadPoolExecutor(4) as pool:
        for asked in [pool.submit(ask, place, piece) for piece in (1000, 100_000, 2**20, 2**24)]:
            asked.result()


def test_a_body_in_tiny_pieces_takes_no_more_room_than_another() -> None:
    pieces, own = MOST_AHEAD_BYTES // 2 - 1, psutil.Process()
    with serving(Limits(body_bytes=2 * MOST_AHEAD_BYTES)) as place, place.connect() as client:
        place.still_answers()
        sent = b"2\r\nxx\r\n" * pieces
        before = own.memory_info().rss
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
        client.sendall(b"0\r\n\r\n")
        digest = hashlib.sha256(b"xx" * pieces).hexdigest().encode()
        assert received(client, digest).startswith(b"HTTP/1.1 200")
        assert own.memory_info().rss - before < 12 * 2**20


@pytest.mark.parametrize("chunked", [False, True])
def test_a_gigabyte_is_refused_at_the_limit_and_takes_little_memory(place: Place, chunked: bool) -> None:
    size, piece, own = 2**30, bytes(2**16), psutil.Process()
    told = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    sent, most, before, answer = 0, 0, own.memory_info().rss, b""
    with place.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + told + b"\r\n\r\n")
        with suppress(ConnectionError):
            while sent < size and not answer:
                client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                sent += len(piece)
                most = max(most, own.memory_info().rss)
                client.setblocking(False)
                with suppress(BlockingIOError):
                    answer += client.recv(2**16)
                client.settimeout(PATIENCE_S)
        # Whatever else is sent is thrown away, and not for long.
        with suppress(ConnectionError):
            while True:
                client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                most = max(most, own.memory_info().rss)
                time.sleep(0.001)
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 64 * LIMITS.body_bytes  # what the way there holds, too
    assert most - before < 64 * 2**20
    place.wait_for(lambda: place.connections == 0)


def test_who_never_reads_an_answer_is_cut_off(place: Place) -> None:
    with place.connect(buffer=4096) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        place.wait_for(lambda: place.connections == 1)
        place.wait_for(lambda: place.connections == 0)
        assert len(received(client)) < LARGE


def test_who_never_reads_and_asks_on_is_cut_off_too(place: Place) -> None:
    with place.connect(buffer=4096) as client, suppress(ConnectionError):
        while True:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.01)
    place.wait_for(lambda: place.connections == 0)


def test_who_reads_slowly_and_steadily_gets_it_all(place: Place) -> None:
    with place.connect(buffer=2**16) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        begin, found = time.monotonic(), 0
        while piece := client.recv(2**20):
            found += len(piece)
            if time.monotonic() - begin < 3 * LIMITS.send_seconds:
                time.sleep(0.02)
    assert found > LARGE


def test_requests_sent_at_once_are_answered_in_turn_and_what_is_no_request_ends_them(place: Place) -> None:
    with place.connect() as client:
        client.sendall(GET * 3 + b"\x00\xff no HTTP \r\n\r\n" + GET)
        answer = received(client)
    assert answer.count(b"HTTP/1.1 200") == answer.count(b"HTTP/1.1") == 3
    assert answer.count(b"connection: close") == 1
    with place.connect() as client:
        client.sendall(b"\x00\xff no HTTP \r\n\r\n" + GET)
        assert received(client).startswith(b"HTTP/1.1 400")


def test_no_more_requests_are_taken_at_once_than_are_worth_it(place: Place) -> None:
    with place.connect() as client:
        client.sendall(GET * 5000)
        answer = received(client)
    assert answer.count(b"HTTP/1.1 200") == answer.count(b"HTTP/1.1") == PIPELINED + 1


def test_garbage_behind_a_body_that_is_being_answered_takes_nothing_from_the_answer(place: Place) -> None:
    with place.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + b"\x00" * 1000)
        answer = received(client)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(hashlib.sha256(b"hello").hexdigest().encode())


@pytest.mark.parametrize(
    "garbage",
    [b"zz\r\nno chunk", b"5\r\nhello\r\n-1\r\n", b"ffffffffffffffffffff\r\n", b"5;" + b"x" * 200_000, b"\x00" * 100],
    ids=["no size", "negative size", "huge size", "endless extension", "zeros"],
)
def test_no_chunk_in_a_body_closes_the_connection_whether_it_was_answered_or_not(place: Place, garbage: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    for refused in (b"", b"Content-Encoding: none-such\r\n"):
        with place.connect() as client, suppress(ConnectionError):
            client.sendall(head + refused + b"\r\n" + garbage)
            received(client)
    with place.connect() as client, suppress(ConnectionError):
        whole = bytes(2 * LIMITS.body_bytes)
        client.sendall(head + b"\r\n%x\r\n%b\r\n" % (len(whole), whole))
        assert received(client, b"\r\n\r\n").startswith(b"HTTP/1.1 413")
        client.sendall(garbage)
        assert b"HTTP/1.1" not in received(client)
    place.wait_for(lambda: place.connections == 0)


@pytest.mark.parametrize(
    "said",
    [
        b"\r\n" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%00%zz?%ff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    ],
    ids=range(14),
)
def test_nothing_that_is_said_is_more_than_one_connection_bears(place: Place, said: bytes) -> None:
    with place.connect() as client, suppress(ConnectionError):
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        received(client)
    place.wait_for(lambda: place.connections == 0)


def test_who_resets_the_connection_in_the_middle_is_forgotten(place: Place) -> None:
    for said in (b"", b"GET /", GET[:-2], b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"):
        client = place.connect(buffer=4096)
        client.sendall(said)
        place.wait_for(lambda: place.connections == 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        place.wait_for(lambda: place.connections == 0)


def test_beyond_so_many_connections_a_new_one_is_closed_and_those_that_were_there_are_answered() -> None:
    with serving(Limits(), connections=3) as place:
        clients = [place.connect() for _ in range(3)]
        place.wait_for(lambda: place.connections == 3)
        for _ in range(10):
            with place.connect() as further:
                assert received(further) == b""
        for client in clients:
            client.sendall(GET)
            assert received(client, b"here").startswith(b"HTTP/1.1 200")
            client.close()
        place.wait_for(lambda: place.connections == 0)
        place.still_answers()
