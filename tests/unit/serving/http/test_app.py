"""The protocol over HTTP, spoken to a real engine: what is answered."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from slipway.errors import BadInputError, TamperedError
from slipway.records import Hardware
from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.answering.opening import opened
from slipway.serving.answering.served import ServedModel
from slipway.serving.http import app
from slipway.serving.http.access_log import AccessLog
from slipway.serving.http.app import InferenceServer
from slipway.serving.http.inference_json import Array
from slipway.serving.http.payload import InferRequest, read_infer_request
from slipway.serving.processes.following import Follower
from slipway.serving.processes.models_file import ModelEntry
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.wiring import host_hardware
from tests.fakes.evidence import HARDWARE
from tests.unit.serving.asking import HEAD, INFER, LIMITS, NAME, in_binary, in_json, logits_of, packed
from tests.unit.serving.conftest import evidence_of
from tests.unit.steps.material import Material, images


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


def test_an_engine_that_breaks_is_told_once_for_each_kind_of_error_however_often_a_client_asks(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors: list[Exception] = [RuntimeError("one"), RuntimeError("another"), KeyError("x")]

    def broken(_: object) -> dict[str, Array]:
        raise errors.pop(0)

    with TestClient(InferenceServer(model, LIMITS, AccessLog(None)).app()) as client:  # raises what uvicorn would log
        monkeypatch.setattr(model, "infer", broken)
        statuses = [client.post(INFER, json={"inputs": [in_json(ONE)]}).status_code for _ in range(3)]
    told = capsys.readouterr().err
    assert statuses == [500] * 3
    assert told.count("Traceback") == 2
    assert f"{NAME} version 7 failed, further such errors are counted:" in told
    assert "RuntimeError: one" in told
    assert "KeyError: 'x'" in told


def test_of_large_json_bodies_one_is_read_at_a_time(
    model: ServedModel, expected: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, most, lock = 0, 0, threading.Lock()

    def counted(body: bytes, head: int | None) -> InferRequest:
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        time.sleep(0.05)
        with lock:
            reading -= 1
        return read_infer_request(body, head)

    monkeypatch.setattr(app, "read_infer_request", counted)
    body = json.dumps({"inputs": [in_json(images(3))]}).encode() + b" " * app.LARGE_JSON_BYTES
    limits = replace(LIMITS, body_bytes=2 * len(body), waiting=8)
    with TestClient(InferenceServer(model, limits, AccessLog(None)).app()) as client, ThreadPoolExecutor(4) as clients:
        found = list(clients.map(lambda _: client.post(INFER, content=body), range(4)))
    assert most == 1
    for response in found:
        np.testing.assert_allclose(logits_of(response), expected, rtol=1e-6)


def test_a_file_that_is_not_the_one_in_the_evidence_is_never_opened(material: Material, tmp_path: Path) -> None:
    other = tmp_path / "engine.onnx"
    other.write_bytes(b"another")
    with pytest.raises(TamperedError, match="is not the engine file of its evidence"):
        ServedModel(NAME, "1", evidence_of(material, "onnxruntime"), other)


def test_the_champion_is_found_by_its_alias_and_a_stale_one_is_refused(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    def fetched(alias: str, here: Hardware) -> LocalEngine:
        entry = ModelEntry(name="tiny", target="x86", alias=alias)
        (engine,) = Follower(registry, lambda: [entry], here, Path(mkdtemp(dir=tmp_path)), lambda _: None).first()
        return engine

    model, _ = opened(fetched("champion", HARDWARE))
    assert (model.version, model.evidence.spec.engine) == ("2", "onnxruntime")
    model.close()
    with pytest.raises(BadInputError, match=r"has no challenger; aliases: "):
        fetched("challenger", HARDWARE)
    with pytest.raises(BadInputError, match=r"is stale: .*; run `slipway release "):
        fetched("champion", host_hardware())
