"""Clients that ask at random times whatever the answers take: an open loop, whose every failure is kept."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from typing import Self

import httpx
import numpy as np

from tests.integration.rollout.canary_project import ENGINE, EXAMPLES
from tests.unit.steps.material import images

ANSWER_SECONDS = 30.0
LOOK_SECONDS = 0.2


class PoissonLoad:
    """Asks ``address`` ``per_s`` times a second, with gaps drawn from the exponential distribution; a context manager.

    ``asked`` tells which example each request id was about, ``failures`` what became of those that were not answered.
    """

    def __init__(self, address: str, per_s: float, seed: int = 0) -> None:
        self._place = f"{address}/v2/models/{ENGINE}/infer"
        self._per_s = per_s
        self._random = np.random.default_rng(seed)
        self._bodies = [_body(image) for image in images(EXAMPLES)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self.asked: dict[str, int] = {}
        self.answered = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        async with httpx.AsyncClient(limits=limits, timeout=ANSWER_SECONDS) as client, asyncio.TaskGroup() as asking:
            loop = asyncio.get_running_loop()
            due_s = loop.time() + self._random.exponential(1 / self._per_s)
            while not self._stop.is_set():
                await asyncio.sleep(min(max(0.0, due_s - loop.time()), LOOK_SECONDS))
                if loop.time() >= due_s:
                    due_s += self._random.exponential(1 / self._per_s)
                    asking.create_task(self._ask(client, int(self._random.integers(EXAMPLES))))

    async def _ask(self, client: httpx.AsyncClient, example: int) -> None:
        request_id = uuid.uuid4().hex
        self.asked[request_id] = example
        head, blob = self._bodies[example]
        headers = {"X-Request-ID": request_id, "Inference-Header-Content-Length": str(len(head))}
        try:
            answer = await client.post(self._place, content=head + blob, headers=headers)
        except httpx.HTTPError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        if answer.status_code == httpx.codes.OK:
            self.answered += 1
        else:
            self.failures.append(f"{answer.status_code}: {answer.text[:200]}")


def _body(image: np.ndarray) -> tuple[bytes, bytes]:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, *image.shape]}
    told = tensor | {"parameters": {"binary_data_size": image.nbytes}}
    return json.dumps({"inputs": [told]}).encode(), image.tobytes()
