"""ONNX Runtime behind a plain socket: no protocol but the length of what comes, one caller after the other.

The floor for a Python server in a process of its own: what it takes beyond the bare session is the operating system's,
which carries the bytes and wakes the engine's threads.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading

import numpy as np
import onnxruntime

SHAPE = (1, 3, 224, 224)
ENGINE = threading.Lock()


class Handler(socketserver.BaseRequestHandler):
    """One connection, on which a caller asks again and again."""

    def handle(self) -> None:
        """Read a head, then as many bytes as the image has; answer the logits."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := self.request.recv(1 << 16):
            head, _, body = request.partition(b"\r\n\r\n")
            assert head.startswith(b"POST"), "heads are sent in one piece with what follows"
            image = np.empty(SHAPE, np.float32)
            into = memoryview(image).cast("B")
            into[: len(body)] = body
            filled = len(body)
            while filled < image.nbytes:
                filled += self.request.recv_into(into[filled:])
            with ENGINE:
                (logits,) = session.run(None, {"image": image})
            answer = logits.tobytes()
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128  # all callers connect at once


if __name__ == "__main__":
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(os.environ["THREADS"])
    session = onnxruntime.InferenceSession(os.environ["MODEL"], settings, providers=["CPUExecutionProvider"])
    with Server(("127.0.0.1", int(os.environ["PORT"])), Handler) as server:
        server.serve_forever()
