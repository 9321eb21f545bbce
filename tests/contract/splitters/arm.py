"""A model server as far as a gateway sees it, as a program: ``arm.py NAME PORT LOG``.

It tells its name and writes each request's id into LOG. A request's headers may ask it to be slow (``x-slow-s``), or to
answer with another status (``x-status``); ``NAME=`` before the value asks this of one arm alone.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME, PORT, LOG = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])


class Arm(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as every server for small answers

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length", 0))
        body = self.rfile.read(size)
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = self._chunks()
        with LOG.open("a") as log:
            line = {"id": self.headers.get("x-request-id"), "bytes": len(body), "headers": dict(self.headers)}
            log.write(json.dumps(line) + "\n")
        time.sleep(float(self._asked("x-slow-s", "0")))
        self._answer(int(self._asked("x-status", "200")))

    def log_message(self, *_: object) -> None:
        pass

    def _asked(self, header: str, default: str) -> str:
        name, _, value = self.headers.get(header, default).rpartition("=")
        return value if name in {"", NAME} else default

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _answer(self, status: int) -> None:
        body = json.dumps({"arm": NAME}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    Server(("127.0.0.1", PORT), Arm).serve_forever()
