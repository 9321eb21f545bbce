"""Many clients, slow ones, and such that leave: what becomes of their requests."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from slipway.serving.answering.engine_queue import EngineQueue
from slipway.serving.answering.served import ServedModel
from slipway.serving.http import app
from slipway.serving.http.access_log import AccessLog
from slipway.serving.http.app import InferenceServer
from slipway.serving.http.inference_json import Array
from slipway.serving.http.limits import Bodies, Limits, RefusedError
from slipway.serving.http.payload import InferRequest, read_infer_request
from tests.unit.serving.asking import INFER, LIMITS, NAME, in_json
from tests.unit.steps.material import images

ONE = images(1)


def test_beyond_the_queue_requests_are_sent_away_and_those_in_it_are_answered(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    infer = model.infer

    def slow(arrays: Mapping[str, Array]) -> dict[str, Array]:
        begun.release()
        go_on.wait(30)
        return infer(arrays)

    monkeypatch.setattr(model, "infer", slow)
    statuses: list[int] = []
    request = {"inputs": [in_json(ONE)]}
    with TestClient(InferenceServer(model, LIMITS, AccessLog(None)).app()) as client:

        def ask() -> None:
            statuses.append(client.post(INFER, json=request).status_code)

        askers = [threading.Thread(target=ask), threading.Thread(target=ask)]
        askers[0].start()
        begun.acquire()
        askers[1].start()
        while 'in_flight{model="tiny.x86"} 2.0' not in client.get("/metrics").text:
            pass
        refused = client.post(INFER, json=request)
        assert client.get("/v2/health/ready").status_code == 200
        go_on.set()
        for asker in askers:
            asker.join()

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"] == "2 requests wait already; try again later"
    assert statuses == [200, 200]


@pytest.mark.parametrize("streams", [1, 2])
def test_as_many_requests_are_answered_at_once_as_the_engine_has_streams(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    inside, most, met, infer = [0], [0], threading.Barrier(2), model.infer

    def together(arrays: Mapping[str, Array]) -> dict[str, Array]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        if streams == 2:
            met.wait(30)  # broken, and so answered with 500, unless the other one comes
        try:
            return infer(arrays)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(model, "infer", together)
    monkeypatch.setattr(model, "streams", streams)
    statuses: list[int] = []
    with TestClient(InferenceServer(model, LIMITS, AccessLog(None)).app()) as client:

        def ask() -> None:
            statuses.append(client.post(INFER, json={"inputs": [in_json(ONE)]}).status_code)

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        (found,) = client.get(f"/v2/models/{NAME}/stats").json()["model_stats"]

    assert (statuses, most[0]) == ([200, 200], streams)
    assert (found["inference_count"], found["execution_count"]) == (2, 2)


class Held:
    """An engine that answers once it may."""

    def __init__(self, model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on, self.calls = threading.Event(), threading.Event(), 0
        self._infer = model.infer
        monkeypatch.setattr(model, "infer", self._slow)

    def _slow(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        self.calls += 1
        self.begun.set()
        self.go_on.wait(30)
        return self._infer(arrays)


async def _there() -> bool:
    return False


async def _gone() -> bool:
    return True


@pytest.mark.parametrize(("gone", "cause"), [(_there, "time-out"), (_gone, "client left")])
def test_a_call_that_nobody_waits_for_keeps_its_slot_and_what_has_not_begun_is_forgotten(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, gone: Callable[[], Awaitable[bool]], cause: str
) -> None:
    held = Held(model, monkeypatch)
    monkeypatch.setattr(model, "streams", 1)
    queue = EngineQueue(model, replace(LIMITS, request_seconds=0.2))

    async def asked() -> tuple[list[Any], int, bool, bool]:
        loose = ONE.copy()
        sent = weakref.ref(loose)
        first = asyncio.create_task(queue.infer({"image": ONE}, gone))
        await asyncio.to_thread(held.begun.wait, 30)
        second = asyncio.create_task(queue.infer({"image": loose}, gone))
        del loose
        ends = await asyncio.gather(first, second, return_exceptions=True)
        still = queue.waiting
        causes = [getattr(end, "cause", end) for end in ends]
        for end in ends:
            assert isinstance(end, RefusedError)
            traceback.clear_frames(end.__traceback__)
        del end, ends, first, second
        gc.collect()
        kept = sent() is not None
        held.go_on.set()
        return causes, still, kept, await queue.close()

    causes, still, kept, idle = asyncio.run(asked())
    assert (causes, still, kept, idle, held.calls) == ([cause, cause], 1, False, True, 1)


def test_a_call_that_does_not_end_is_left_after_the_drain(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    held, closed = Held(model, monkeypatch), []
    monkeypatch.setattr(model, "close", lambda: closed.append(True))
    queue = EngineQueue(model, replace(LIMITS, request_seconds=0.1, drain_seconds=0.1))

    async def asked() -> bool:
        with pytest.raises(RefusedError, match="no answer within"):
            await queue.infer({"image": ONE}, _there)
        return await queue.close()

    try:
        assert not asyncio.run(asked())
        assert not closed
    finally:
        held.go_on.set()


def test_a_client_that_leaves_while_it_sends_is_counted_and_nothing_is_thrown(model: ServedModel) -> None:
    server = InferenceServer(model, LIMITS, AccessLog(None))
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(_: object) -> None:
        pass

    place = {"type": "http", "method": "POST", "path": INFER, "headers": [], "query_string": b"", "http_version": "1.1"}
    asyncio.run(server.app()(place, receive, send))
    with TestClient(server.app()) as client:
        assert f'slipway_errors_total{{cause="client left",model="{NAME}"}} 1.0' in client.get("/metrics").text
    assert (model.statistics.fail.count, model.statistics.success.count) == (1, 0)


def test_bodies_that_are_large_together_are_refused_and_small_ones_answered_again_then() -> None:
    bodies = Bodies(Limits(body_bytes=100))
    with bodies.held() as one, bodies.held() as other:
        one(100)
        one(100)
        other(150)
        with pytest.raises(RefusedError, match="the requests at hand hold 350 bytes already") as refused:
            other(51)
        other(50)
    assert (refused.value.status, bodies.taken_bytes) == (503, 0)


def test_large_bodies_are_worked_on_beside_the_event_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def traced(body: bytes, head_bytes: int | None) -> InferRequest:
        threads.append(threading.current_thread().name)
        return read_infer_request(body, head_bytes)

    monkeypatch.setattr(app, "read_infer_request", traced)
    for batch in (1, 8):
        assert client.post(INFER, json={"inputs": [in_json(images(batch))]}).status_code == 200
    small, large = threads
    assert small != large
