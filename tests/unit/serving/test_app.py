"""The protocol over HTTP, spoken to a real engine: what is answered, and what is refused and how."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import gzip
import io
import json
import os
import threading
import traceback
import weakref
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.errors import BadInputError, TamperedError
from slipway.records import Form
from slipway.serving import app
from slipway.serving.access_log import AccessLog
from slipway.serving.app import InferenceServer
from slipway.serving.engine_queue import EngineQueue
from slipway.serving.inference_json import Array
from slipway.serving.limits import Bodies, Limits, RefusedError
from slipway.serving.payload import InferRequest, read_infer_request
from slipway.serving.served import ServedModel, open_registered
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.wiring import host_hardware
from tests.fakes.evidence import HARDWARE
from tests.unit.serving.conftest import evidence_of
from tests.unit.steps.material import Material, images

NAME = "tiny.x86"
INFER = f"/v2/models/{NAME}/infer"
LIMITS = Limits(body_bytes=200_000, batch=8, waiting=2, request_seconds=5, drain_seconds=5)
HEAD = "Inference-Header-Content-Length"


@pytest.fixture
def model(material: Material) -> ServedModel:
    """The tiny model on ONNX Runtime, opened."""
    found = evidence_of(material, "onnxruntime")
    return ServedModel(
        NAME, "7", found, material.objects.path(material.built("fp32", "onnxruntime", Form.ONNX).artifact)
    )


@pytest.fixture
def client(model: ServedModel) -> Iterator[TestClient]:
    """A client of a server that is up."""
    with TestClient(InferenceServer(model, LIMITS, AccessLog(None)).app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def expected(material: Material) -> Array:
    """The engine's own answer to three images."""
    path = material.objects.path(material.built("fp32", "onnxruntime", Form.ONNX).artifact)
    with engine("onnxruntime").load(path, RunOptions()) as session:
        return session.infer({"image": images(3)})["logits"]


def in_json(array: Array, **changes: Any) -> dict[str, Any]:
    """An input with its data beside it."""
    told = {"name": "image", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
    return told | changes


def in_binary(array: Array, **changes: Any) -> tuple[dict[str, Any], bytes]:
    """An input, and its data, which follow the JSON."""
    told = {"name": "image", "datatype": "FP32", "shape": list(array.shape)}
    return told | {"parameters": {"binary_data_size": array.nbytes}} | changes, array.tobytes()


def packed(request: Mapping[str, Any], *blobs: bytes) -> dict[str, Any]:
    """What is posted: JSON and the tensors behind it."""
    head = json.dumps(request).encode()
    return {"content": head + b"".join(blobs), "headers": {HEAD: str(len(head))}}


def logits_of(response: Any) -> Array:
    """The answer's array, wherever it stands."""
    size = int(response.headers.get(HEAD, len(response.content)))
    head = json.loads(response.content[:size])
    (output,) = head["outputs"]
    assert (output["name"], output["datatype"]) == ("logits", "FP32")
    if "data" in output:
        return np.array(output["data"], np.float32).reshape(output["shape"])
    assert output["parameters"]["binary_data_size"] == len(response.content) - size
    return np.frombuffer(response.content[size:], np.float32).reshape(output["shape"])


@pytest.mark.parametrize("sent", ["json", "binary"])
@pytest.mark.parametrize("answered", ["json", "binary", "binary by name"])
def test_json_and_binary_both_ways_give_the_engines_own_answer(
    client: TestClient, expected: Array, sent: str, answered: str
) -> None:
    outputs: dict[str, Any] = {
        "json": {},
        "binary": {"parameters": {"binary_data_output": True}},
        "binary by name": {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]},
    }[answered]
    if sent == "json":
        response = client.post(INFER, json={"inputs": [in_json(images(3))], **outputs})
    else:
        told, blob = in_binary(images(3))
        response = client.post(INFER, **packed({"inputs": [told], **outputs}, blob))

    assert response.status_code == 200
    assert (HEAD in response.headers) is (answered != "json")
    np.testing.assert_allclose(logits_of(response), expected, rtol=1e-6)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bodies_come_and_go_compressed(client: TestClient, expected: Array, encoding: str) -> None:
    body = json.dumps({"inputs": [in_json(images(3))]}).encode()
    compressed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    response = client.post(INFER, content=compressed, headers={"Content-Encoding": encoding})

    np.testing.assert_allclose(logits_of(response), expected, rtol=1e-6)


def test_a_large_answer_is_compressed_where_the_client_takes_it(client: TestClient) -> None:
    request = {"inputs": [in_json(images(8))]}
    plain = client.post(INFER, json=request, headers={"Accept-Encoding": "identity"})
    small = client.post(INFER, json=request, headers={"Accept-Encoding": "gzip"})

    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert small.json() == plain.json()


def test_the_answer_names_model_version_digest_and_request(client: TestClient, model: ServedModel) -> None:
    request = {"id": "seven", "inputs": [in_json(images(1))]}
    by_body = client.post(INFER, json=request)
    by_header = client.post(INFER, json=request, headers={"X-Request-ID": "from-the-proxy"})

    answer = by_body.json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (NAME, "7", "seven")
    assert by_body.headers["x-engine-digest"] == model.digest
    assert by_body.headers["x-request-id"] == "seven"
    assert by_header.headers["x-request-id"] == "from-the-proxy"


@pytest.mark.parametrize("strange", ["\u00fc", "a\r\nb", "a\0b", " a", "a ", "", "x" * 257])
def test_an_id_that_no_header_can_hold_is_told_in_json_alone(client: TestClient, strange: str) -> None:
    answer = client.post(INFER, json={"id": strange, "inputs": [in_json(ONE)]})

    assert (answer.status_code, answer.json()["id"]) == (200, strange)
    assert "x-request-id" not in answer.headers


def test_health_and_metadata(client: TestClient) -> None:
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    server = client.get("/v2").json()
    assert server["name"] == "slipway"
    assert "binary_tensor_data" in server["extensions"]
    for place in (f"/v2/models/{NAME}", f"/v2/models/{NAME}/versions/7"):
        assert client.get(f"{place}/ready").status_code == 200
        assert client.get(place).json() == {
            "name": NAME,
            "versions": ["7"],
            "platform": "slipway_onnxruntime",
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 16, 16]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        }
    assert client.post("/v2/repository/index").json() == [
        {"name": NAME, "version": "7", "state": "READY", "reason": ""}
    ]


def test_what_triton_adds(client: TestClient) -> None:
    client.post(INFER, json={"inputs": [in_json(images(3))]})
    client.post(INFER, json={"inputs": []})

    config = client.get(f"/v2/models/{NAME}/config").json()
    assert (config["name"], config["backend"], config["max_batch_size"]) == (NAME, "onnxruntime", 8)
    assert config["input"] == [{"name": "image", "data_type": "TYPE_FP32", "dims": [3, 16, 16]}]
    (found,) = client.get(f"/v2/models/{NAME}/stats").json()["model_stats"]
    assert client.get("/v2/models/stats").json()["model_stats"] == [found]
    assert (found["inference_count"], found["execution_count"]) == (3, 1)
    inside = found["inference_stats"]
    assert (inside["success"]["count"], inside["fail"]["count"]) == (1, 1)
    assert 0 < inside["compute_infer"]["ns"] <= inside["success"]["ns"]


def test_prometheus_reads_latency_examples_and_errors(client: TestClient, model: ServedModel) -> None:
    client.post(INFER, json={"inputs": [in_json(images(3))]})
    client.post(INFER, content=b"nonsense")

    text = client.get("/metrics").text
    labels = f'digest="{model.digest}",model="{NAME}",version="7"'
    assert f"slipway_request_seconds_count{{{labels}}} 1.0" in text
    assert f"slipway_request_examples_sum{{{labels}}} 3.0" in text
    assert 'le="0.0001"' in text
    assert f'slipway_errors_total{{cause="bad request",model="{NAME}"}} 1.0' in text
    assert f'slipway_in_flight{{model="{NAME}"}} 0.0' in text


def test_the_access_log_has_a_line_per_answer(model: ServedModel, expected: Array) -> None:
    log = io.BytesIO()
    with TestClient(InferenceServer(model, LIMITS, AccessLog(log)).app()) as client:
        client.post(INFER, json={"id": "a", "inputs": [in_json(images(3))]})
        client.post(INFER, content=b"nonsense")

    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["request_id"], line["version"]) == ("a", "7")
    assert line["top1"] == expected.argmax(1).tolist()
    assert line["latency_us"] > 0


class Full:
    """A disk without room."""

    def write(self, _: bytes) -> int:
        raise OSError(28, "No space left on device")


def test_an_access_log_that_cannot_be_written_costs_lines_and_no_answers(
    model: ServedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    log = AccessLog(Full())
    with TestClient(InferenceServer(model, LIMITS, log).app()) as client:
        statuses = [client.post(INFER, json={"inputs": [in_json(ONE)]}).status_code for _ in range(3)]

    assert (statuses, log.dropped) == ([200] * 3, 3)
    assert capsys.readouterr().err.count("the access log cannot be written: [Errno 28]") == 1


def test_a_pipe_that_nobody_reads_costs_lines_and_no_answers(model: ServedModel) -> None:
    reader, writer = os.pipe()
    with io.FileIO(reader), io.FileIO(writer, "w") as pipe:
        pipe.write(b" " * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))
        log = AccessLog(pipe, waiting=1)
        with TestClient(InferenceServer(model, LIMITS, log).app()) as client:
            statuses = [client.post(INFER, json={"inputs": [in_json(ONE)]}).status_code for _ in range(5)]
            told = client.get("/metrics").text
            os.read(reader, 2**20)

    assert statuses == [200] * 5
    assert log.dropped in (3, 4)  # one waits, and one was taken by the thread if it was quick
    assert f"slipway_access_log_dropped_total {log.dropped}.0" in told


ONE = images(1)


@pytest.mark.parametrize(
    ("request_body", "reason"),
    [
        (b"nonsense", "the request's body is not JSON"),
        (b"", "not JSON"),
        (b"[]", "a request is a JSON object"),
        (b"{}", "a request is a JSON object"),
        ({"inputs": []}, "the model takes image float32[-1, 3, 16, 16]"),
        ({"inputs": [in_json(ONE, name="picture")]}, "was given picture float32[1, 3, 16, 16]"),
        ({"inputs": [in_json(ONE, shape=[1, 768])]}, "was given image float32[1, 768]"),
        ({"inputs": [in_json(ONE, datatype="FP64")]}, "was given image float64[1, 3, 16, 16]"),
        ({"inputs": [in_json(ONE, datatype="BYTES")]}, "has datatype 'BYTES'; known: BOOL"),
        ({"inputs": [in_json(ONE, shape=[2, 3, 16, 16])]}, "does not hold float32[2, 3, 16, 16]"),
        ({"inputs": [in_json(images(9))]}, "a batch of 9 was sent; from 1 to 8 examples are taken"),
        ({"inputs": [in_json(images(0))]}, "a batch of 0 was sent"),
        ({"inputs": [in_json(ONE)], "outputs": [{"name": "scores"}]}, "'scores' was asked for; the model gives logits"),
        ({"inputs": [in_json(ONE)], "outputs": "logits"}, "outputs is a list of objects"),
        ({"inputs": [in_json(ONE)], "parameters": 3}, "parameters is an object, found 3"),
        ({"inputs": [in_json(ONE)], "id": 7}, "a request's id is a string, found 7"),
        ({"inputs": [in_json(ONE, name="x" * 100_000)]}, "was given xxx"),
        (b"[" * 100_000, "not JSON"),
        (
            {"inputs": [in_json(ONE)], "outputs": [{"name": "logits", "parameters": {"classification": 2}}]},
            "asked for as classification",
        ),
    ],
)
def test_a_request_that_is_wrong_is_told_why(client: TestClient, request_body: Any, reason: str) -> None:
    body = request_body if isinstance(request_body, bytes) else json.dumps(request_body).encode()
    response = client.post(INFER, content=body)

    assert response.status_code == 400
    assert reason in response.json()["error"]


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("truncated", "takes 3072 bytes, the body ends after 3000"),
        ("longer", "add up to 3072 bytes, 3080 follow the JSON"),
        ("size", "has binary_data_size 100, float32[1, 3, 16, 16] takes 3072 bytes"),
        ("negative", "has binary_data_size -4"),
        ("both", "has both data and binary_data_size"),
        ("header too long", "is said to take 99999 bytes"),
        ("header no number", f"header {HEAD} is the length"),
        ("header of 5000 digits", f"header {HEAD} is the length"),
        ("zero times huge", "elements are taken"),
    ],
)
def test_binary_bodies_that_do_not_add_up_are_refused(client: TestClient, flaw: str, reason: str) -> None:
    told, blob = in_binary(ONE)
    sizes = {"size": 100, "negative": -4}
    if flaw in sizes:
        told["parameters"]["binary_data_size"] = sizes[flaw]
    if flaw == "both":
        told["data"] = [1.0]
    if flaw == "zero times huge":
        told["shape"] = [0, 2**31 - 1, 2**31 - 1]
    post = packed({"inputs": [told]}, {"truncated": blob[:3000], "longer": blob + b"12345678"}.get(flaw, blob))
    lengths = {"header too long": "99999", "header no number": "-1", "header of 5000 digits": "1" * 5000}
    post["headers"] |= {HEAD: lengths[flaw]} if flaw in lengths else {}
    response = client.post(INFER, **post)

    assert response.status_code == 400
    assert reason in response.json()["error"]


@pytest.mark.parametrize("place", ["/v2/models/other/infer", f"/v2/models/{NAME}/versions/8/infer"])
def test_what_is_not_served_is_not_found(client: TestClient, place: str) -> None:
    response = client.post(place, json={"inputs": [in_json(ONE)]})

    assert response.status_code == 404
    assert response.json()["error"].endswith(f"is not served here; served: {NAME} version 7")


def test_an_unknown_place_and_a_wrong_method_are_told_in_json(client: TestClient) -> None:
    wrong = client.get(INFER)
    assert (client.get("/v3").status_code, wrong.status_code, wrong.headers["allow"]) == (404, 405, "POST")
    assert client.get("/v3").json() == {"error": "Not Found"}


def test_bodies_over_the_limit_are_refused_as_sent_and_decompressed(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 1000

    told = client.post(INFER, content=b" " * 200_001)
    untold = client.post(INFER, content=chunks())
    bomb = client.post(INFER, content=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})
    unknown = client.post(INFER, content=b"{}", headers={"Content-Encoding": "br"})
    broken = client.post(INFER, content=gzip.compress(b"{}" * 100)[:-9], headers={"Content-Encoding": "gzip"})
    followed = client.post(INFER, content=gzip.compress(b"{}") + b"more", headers={"Content-Encoding": "gzip"})

    answers = (told, untold, bomb, unknown, broken, followed)
    assert [one.status_code for one in answers] == [413, 413, 413, 415, 400, 400]
    assert followed.json()["error"] == "4 bytes follow the body's gzip"
    assert "larger than the 200000 bytes allowed" in bomb.json()["error"]
    assert "ends too early" in broken.json()["error"]


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


def test_an_engine_that_breaks_answers_500_and_goes_on(
    client: TestClient, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> dict[str, Array]:
        raise RuntimeError("secret path")

    with monkeypatch.context() as patch:
        patch.setattr(model, "infer", broken)
        response = client.post(INFER, json={"inputs": [in_json(ONE)]})
    assert (response.status_code, response.json()) == (500, {"error": "the engine failed: RuntimeError"})
    assert f'slipway_errors_total{{cause="engine",model="{NAME}"}} 1.0' in client.get("/metrics").text
    assert model.statistics.fail.count == 1
    assert client.post(INFER, json={"inputs": [in_json(ONE)]}).status_code == 200


def test_a_file_that_is_not_the_one_in_the_evidence_is_never_opened(material: Material, tmp_path: Path) -> None:
    other = tmp_path / "engine.onnx"
    other.write_bytes(b"another")
    with pytest.raises(TamperedError, match="is not the engine file of its evidence"):
        ServedModel(NAME, "1", evidence_of(material, "onnxruntime"), other)


def test_the_champion_is_found_by_its_alias_and_a_stale_one_is_refused(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    opened = open_registered(registry, NAME, "champion", HARDWARE, tmp_path / "a")
    assert (opened.version, opened.evidence.spec.engine) == ("2", "onnxruntime")
    with pytest.raises(BadInputError, match=r"has no challenger; aliases: "):
        open_registered(registry, NAME, "challenger", HARDWARE, tmp_path / "b")
    with pytest.raises(BadInputError, match=r"is stale: .*; run `slipway release "):
        open_registered(registry, NAME, "champion", host_hardware(), tmp_path / "c")
