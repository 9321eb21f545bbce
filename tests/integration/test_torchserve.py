"""TorchServe serves the archive that ``slipway step publish`` writes, and answers as the engine itself does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.records import Form
from slipway.serving import torchserve_handler
from slipway.serving.http.inference_json import read_request, write_response
from slipway.steps.publish import publish_mar
from tests.fakes.evidence import evidence, release
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.material import Material, images, make_material

pytestmark = pytest.mark.integration

NAME = "tiny.x86"
START_SECONDS = 120.0
CONFIG = """\
inference_address=http://127.0.0.1:{inference}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_address=127.0.0.1
grpc_management_address=127.0.0.1
grpc_inference_port={grpc_inference}
grpc_management_port={grpc_management}
default_workers_per_model=1
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """The tiny model."""
    return make_material(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def address(
    request: pytest.FixtureRequest, material: Material, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where TorchServe predicts with the champion, whose engine is one file, then a directory."""
    if shutil.which("java") is None:
        pytest.skip("TorchServe needs Java 17")
    folder = tmp_path_factory.mktemp(request.param)
    publish_mar(
        _registry(material, request.param), NAME, "champion", Path(torchserve_handler.__file__), folder / "store"
    )
    with _torchserve(folder) as port:
        yield f"http://127.0.0.1:{port}/predictions/{NAME}"


def test_it_answers_as_the_engine_itself(address: str, material: Material) -> None:
    asked = write_response("", "", {"image": images(3)})["outputs"]

    status, answer = _ask(address, {"id": "seven", "inputs": asked})

    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (NAME, "1.0", "seven")
    path = material.objects.path(material.built("fp32", "onnxruntime", Form.ONNX).artifact)
    with engine("onnxruntime").load(path, RunOptions()) as session:
        expected = session.infer({"image": images(3)})
    found = read_request({"inputs": answer["outputs"]})
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-3, atol=1e-5)


def test_a_wrong_request_is_answered_with_400_and_what_the_engine_takes(address: str) -> None:
    status, answer = _ask(address, {"inputs": write_response("", "", {"picture": images(1)})["outputs"]})

    assert status == 400
    assert answer["message"].startswith("the model takes image float32[-1, 3, 16, 16], but was given picture")


def test_a_body_that_is_too_deep_is_answered_with_400(address: str) -> None:
    status, answer = _post(address, b"[" * 100_000, "application/octet-stream")

    assert status == 400
    assert answer["message"].startswith("the request's body is not JSON: ")


def _registry(material: Material, runtime: str) -> FakeRegistry:
    registry, built = FakeRegistry(), material.built("fp32", runtime, Form.ONNX)
    found = evidence(
        built.artifact.digest,
        spec=built.spec,
        options=built.options | {"threads": 1},
        signature=material.source.signature,
    )
    paths = {built.artifact.digest: material.objects.path(built.artifact)}
    recorded = registry.record_release(release(found, model="tiny"), paths, [])
    registry.promote(NAME, registry.register(NAME, recorded, found), None, None)
    return registry


@contextmanager
def _torchserve(folder: Path) -> Iterator[int]:
    """A TorchServe with all that ``folder/store`` holds; its port for predictions."""
    with ExitStack() as held:
        names = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = {name: one.getsockname()[1] for name, one in zip(names, free, strict=True)}
    (folder / "config.properties").write_text(CONFIG.format(**ports), encoding="ascii")
    (folder / "tmp").mkdir()
    program = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--disable-token-auth"]
    options = ["--ts-config", "config.properties", "--model-store", "store", "--models", "all"]
    places = {"TMPDIR": str(folder / "tmp"), "TEMP": str(folder / "tmp"), "LOG_LOCATION": "logs"}
    with (folder / "log.txt").open("wb") as log:
        process = psutil.Popen(
            [*program, *options],
            cwd=folder,
            env={**os.environ, **places, "METRICS_LOCATION": "logs"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _await_ready(f"http://127.0.0.1:{ports['management']}/models/{NAME}", process, folder / "log.txt")
        yield ports["inference"]
    finally:
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def _await_ready(model: str, process: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _has_worker(model):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"TorchServe did not start: {log.read_text(encoding='utf-8', errors='replace')}")
        time.sleep(0.3)


def _has_worker(model: str) -> bool:
    try:
        with urllib.request.urlopen(model, timeout=5) as answer:
            (version,) = json.load(answer)
    except OSError:
        return False
    return any(worker["status"] == "READY" for worker in version["workers"])


def _ask(address: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return _post(address, json.dumps(request).encode(), "application/json")


def _post(address: str, body: bytes, kind: str) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": kind}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
