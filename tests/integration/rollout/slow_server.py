"""A server with a fault: in front of the real one, some of the requests are held back; run as a program."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
from contextlib import suppress

CHUNK_BYTES = 2**20


async def main(port: int, share: float, delay_s: float, command: list[str]) -> int:
    """Start ``command`` on a port of its own; hand it what comes to ``port``, a ``share`` of it ``delay_s`` later."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    command[command.index("--port") + 1] = str(own)
    served = await asyncio.create_subprocess_exec(*command)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, served.terminate)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            to, back = await asyncio.open_connection("127.0.0.1", own)
            answers = asyncio.create_task(_hand_on(to, writer, 0, 0))
            await _hand_on(reader, back, share, delay_s)
            await answers
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", port):
        return await served.wait()


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, share: float, delay_s: float) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            if chunk.startswith(b"POST") and random.random() < share:
                await asyncio.sleep(delay_s)
            writer.write(chunk)
            await writer.drain()
    with suppress(OSError):
        writer.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])))
