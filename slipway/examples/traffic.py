"""Clients of an example: its test examples asked over the Open Inference Protocol at random times, and labelled."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from queue import SimpleQueue
from typing import Self, TypeAlias
from urllib.parse import urlsplit

import numpy as np

from slipway.errors import InfrastructureError
from slipway.examples.recipe import Split

Labels: TypeAlias = dict[str, tuple[int, ...]]

CONNECTIONS = 16
ANSWER_SECONDS = 30.0
LABEL_SECONDS = 1.0


@dataclass(frozen=True)
class Service:
    """Where a model answers: the address, a URL without a path, its name there, and the name of its one input."""

    address: str
    model: str
    input: str


class Traffic:
    """Asks ``per_s`` times a second whatever the answers take, an open loop; a context manager.

    Gaps are drawn from the exponential distribution, examples at random. About a second after its answer a request is
    labelled by ``send_labels``, which takes classes by request id. ``answered`` are the ids of requests that were,
    ``failures`` what became of the others.
    """

    def __init__(
        self, service: Service, split: Split, per_s: float, send_labels: Callable[[Labels], object], seed: int = 0
    ) -> None:
        self._service, self._split, self._per_s, self._send_labels = service, split, per_s, send_labels
        self._random = np.random.default_rng(seed)
        self._due: SimpleQueue[int | None] = SimpleQueue()
        self._right: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._unsent: Labels = {}
        self._stop = threading.Event()
        self._asking = [threading.Thread(target=self._ask_all, name="client") for _ in range(CONNECTIONS)]
        self._around = [threading.Thread(target=one, name=one.__name__) for one in (self._arrive, self._label)]
        self.answered: list[str] = []
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in (*self._asking, *self._around):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ask no more, and wait for the answers that are due."""
        self._stop.set()
        for thread in self._around:
            thread.join()
        for thread in self._asking:
            thread.join()

    def _arrive(self) -> None:
        due_s = time.monotonic()
        while True:
            due_s += self._random.exponential(1 / self._per_s)
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                break
            self._due.put(int(self._random.integers(len(self._split.labels))))
        for _ in self._asking:
            self._due.put(None)

    def _ask_all(self) -> None:
        place = urlsplit(self._service.address)
        with closing(HTTPConnection(place.hostname or "", place.port, timeout=ANSWER_SECONDS)) as connection:
            while (example := self._due.get()) is not None:
                self._ask(connection, example)

    def _ask(self, connection: HTTPConnection, example: int) -> None:
        request_id, (head, blob) = uuid.uuid4().hex, self._body(example)
        headers = {"X-Request-ID": request_id, "Inference-Header-Content-Length": str(len(head))}
        try:
            connection.request("POST", f"/v2/models/{self._service.model}/infer", head + blob, headers)
            answer = connection.getresponse()
            told = answer.read()
        except (OSError, HTTPException) as error:
            connection.close()  # the next request opens it anew
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        if answer.status == HTTPStatus.OK:
            self.answered.append(request_id)
            self._right.put((request_id, int(self._split.labels[example])))
        else:
            self.failures.append(f"{answer.status}: {told[:200].decode(errors='replace')}")

    def _body(self, example: int) -> tuple[bytes, bytes]:
        """The JSON of a request of one example, and the tensor that follows it."""
        array = self._split.inputs[example : example + 1]
        tensor = {"name": self._service.input, "datatype": "FP32", "shape": array.shape}
        told = tensor | {"parameters": {"binary_data_size": array.nbytes}}
        return json.dumps({"inputs": [told]}).encode(), array.tobytes()

    def _label(self) -> None:
        while not self._stop.wait(LABEL_SECONDS):
            while not self._right.empty():
                request_id, label = self._right.get()
                self._unsent[request_id] = (label,)
            if not self._unsent:
                continue
            try:
                self._send_labels(self._unsent)
            except InfrastructureError:  # a store that is down for a while; the next turn sends them too
                continue
            self._unsent = {}
