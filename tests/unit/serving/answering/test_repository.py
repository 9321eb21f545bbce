"""The models of one server: who answers for each while engines come and go."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from slipway.serving.answering.repository import Repository
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.access_log import AccessLog
from slipway.serving.http.app import InferenceServer
from slipway.serving.http.inference_json import Array
from slipway.serving.http.limits import RefusedError
from tests.fakes.multiplier import NAME, X, answer, local
from tests.unit.serving.asking import LIMITS

INFER = f"/v2/models/{NAME}/infer"
REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.ravel().tolist()}]}


def model(folder: Path, order: int, factor: float, name: str = NAME) -> ServedModel:
    """The engine of this factor, opened."""
    engine = local(folder, order, factor)
    return ServedModel(name, engine.version, engine.evidence, engine.path)


def test_models_are_told_apart_by_their_names(tmp_path: Path) -> None:
    repository = Repository(LIMITS, [model(tmp_path, 1, 2), model(tmp_path, 2, 3, "other.x86")])
    repository.refuse("third.x86", "no version bears champion any more")
    with TestClient(InferenceServer(repository, LIMITS, AccessLog(None)).app()) as client:
        for name, factor in ((NAME, 2), ("other.x86", 3)):
            found = client.post(f"/v2/models/{name}/infer", json=REQUEST).json()
            assert found["model_name"] == name
            np.testing.assert_allclose(found["outputs"][0]["data"], answer(factor).ravel())
        unknown = client.get("/v2/models/unknown")
        missing = client.post("/v2/models/third.x86/infer", json=REQUEST)
        index = client.post("/v2/repository/index").json()
        stats = client.get("/v2/models/stats").json()["model_stats"]
        assert client.get("/v2/health/ready").status_code == 503
        repository.remove("third.x86")
        assert client.get("/v2/health/ready").status_code == 200
    assert unknown.status_code == 404
    told = "model 'unknown' is not served here; served: tiny.x86 version 1, other.x86 version 2"
    assert unknown.json() == {"error": told}
    assert (missing.status_code, missing.headers["retry-after"]) == (503, "1")
    assert missing.json() == {"error": "model third.x86 is not available: no version bears champion any more"}
    assert [one["name"] for one in stats] == [NAME, "other.x86"]
    assert index == [
        {"name": NAME, "version": "1", "state": "READY", "reason": ""},
        {"name": "other.x86", "version": "2", "state": "READY", "reason": ""},
        {
            "name": "third.x86",
            "version": "",
            "state": "UNAVAILABLE",
            "reason": "no version bears champion any more",
        },
    ]


def asked(server: InferenceServer, receive: Any) -> Any:
    """The answer of ``server`` to a request whose body ``receive`` gives: status, engine's digest, outputs."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    place = {"type": "http", "method": "POST", "path": INFER, "headers": [], "query_string": b"", "http_version": "1.1"}

    async def whole() -> tuple[int, str, list[float]]:
        await server.app()(place, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers["x-engine-digest"], json.loads(sent[1]["body"])["outputs"][0]["data"]

    return whole()


def test_a_request_whose_body_comes_while_engines_change_is_answered_by_the_one_that_is_there_then(
    tmp_path: Path,
) -> None:
    old, new = model(tmp_path, 1, 2), model(tmp_path, 2, 3)
    server = InferenceServer(old, LIMITS, AccessLog(None))
    body = json.dumps(REQUEST).encode()

    async def run() -> Any:
        parts = [body[:20], body[20:]]

        async def receive() -> dict[str, Any]:
            if len(parts) == 1:  # the first part was read
                before = server.repository.put(new)
                assert before is not None
                assert await server.repository.retire(before)
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        answered = await asked(server, receive)
        await server.repository.close()
        return answered

    status, digest, outputs = asyncio.run(run())
    assert (status, digest) == (200, new.digest)
    np.testing.assert_allclose(outputs, answer(3).ravel())


def test_a_request_in_the_engine_is_answered_by_it_after_another_took_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, closed = model(tmp_path, 1, 2), model(tmp_path, 2, 3), threading.Event()
    begun, go_on, infer, close = threading.Event(), threading.Event(), old.infer, old.close

    def slow(arrays: Mapping[str, Array]) -> dict[str, Array]:
        begun.set()
        assert go_on.wait(30)
        assert not closed.is_set()
        return infer(arrays)

    monkeypatch.setattr(old, "infer", slow)
    monkeypatch.setattr(old, "close", lambda: (closed.set(), close()))
    server = InferenceServer(old, LIMITS, AccessLog(None))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(REQUEST).encode()}

    async def run() -> tuple[Any, Any]:
        first = asyncio.create_task(asked(server, receive))
        await asyncio.to_thread(begun.wait, 30)
        before = server.repository.put(new)
        assert before is not None
        retired = server.repository.retire(before)
        second = await asked(server, receive)
        (place,) = server.repository
        assert (retired.done(), place.in_flight) == (False, 1)
        go_on.set()
        assert await retired
        assert (closed.is_set(), place.in_flight) == (True, 0)
        await server.repository.close()
        return await first, second

    (status, digest, outputs), (_, other, _) = asyncio.run(run())
    assert (status, digest, other) == (200, old.digest, new.digest)
    np.testing.assert_allclose(outputs, answer(2).ravel())


def test_the_former_version_is_not_found_any_more_and_a_reason_goes_with_the_next_engine(tmp_path: Path) -> None:
    old, new = model(tmp_path, 1, 2), model(tmp_path, 2, 3)

    async def run() -> None:
        repository = Repository(LIMITS, [old])
        repository.refuse(NAME, "version 2 is refused: stale")
        assert [place.reason for place in repository] == ["version 2 is refused: stale"]
        assert repository.ready
        before = repository.put(new)
        assert before is not None
        with pytest.raises(RefusedError, match=r"model 'tiny.x86' version 1 is not served here; served: tiny.x86 v"):
            repository.find(NAME, "1")
        assert repository.find(NAME, "2").model is new
        assert [place.reason for place in repository] == [""]
        repository.retire(before)
        assert await repository.close()
        assert not repository.ready

    asyncio.run(run())
