"""NVIDIA's own HTTP client for Triton, which knows nothing of Slipway, finds all that it looks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

import slipway
from slipway.serving.http.inference_json import Array
from tests.e2e.project import ENGINE
from tests.integration.serving.conftest import Served

pytestmark = pytest.mark.integration

SCORES = "logits"
EXAMPLES = np.random.default_rng(7).normal(size=(64, 64)).astype(np.float32)  # an answer worth compressing


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(served.host, concurrency=4) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Array:
    """What the engine answers when nobody serves it."""
    return served.expected(EXAMPLES, tmp_path_factory.mktemp("engine"))


def asking(x: Array, *, binary: bool = True, name: str = "x", datatype: str = "FP32") -> InferInput:
    tensor = InferInput(name, list(x.shape), datatype)
    tensor.set_data_from_numpy(x, binary_data=binary)
    return tensor


def scores_of(result: InferResult) -> Array:
    found = result.as_numpy(SCORES)
    assert found is not None
    return found


def test_it_is_alive_and_ready_and_no_other_model_is(client: InferenceServerClient, served: Served) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(served.name)
    assert client.is_model_ready(served.name, served.version)
    assert not client.is_model_ready("other")
    assert not client.is_model_ready(served.name, "77")


def test_it_tells_of_itself_and_its_model(client: InferenceServerClient, served: Served) -> None:
    server = client.get_server_metadata()
    assert (server["name"], server["version"]) == ("slipway", slipway.__version__)
    assert {"binary_tensor_data", "model_repository", "model_configuration", "statistics"} <= set(server["extensions"])

    model = client.get_model_metadata(served.name)
    assert (model["name"], model["versions"]) == (served.name, [served.version])
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    assert model["outputs"] == [{"name": SCORES, "datatype": "FP32", "shape": [-1, 5]}]

    config = client.get_model_config(served.name, served.version)
    assert (config["name"], config["max_batch_size"]) == (served.name, 128)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [64]}]

    (indexed,) = client.get_model_repository_index()
    assert (indexed["name"], indexed["version"], indexed["state"]) == (served.name, served.version, "READY")


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
@pytest.mark.parametrize(("sent_binary", "answered_binary"), list(itertools.product([False, True], repeat=2)))
def test_however_it_is_asked_and_answered_the_answer_is_the_engines(
    client: InferenceServerClient,
    expected: Array,
    sent_binary: bool,
    answered_binary: bool,
    request_: str | None,
    response: str | None,
) -> None:
    result = client.infer(
        ENGINE,
        [asking(EXAMPLES, binary=sent_binary)],
        outputs=[InferRequestedOutput(SCORES, binary_data=answered_binary)],
        request_compression_algorithm=request_,
        response_compression_algorithm=response,
    )

    assert "data" not in result.get_output(SCORES) if answered_binary else result.get_output(SCORES)["data"]
    np.testing.assert_allclose(scores_of(result), expected, rtol=1e-5, atol=1e-6)


def test_outputs_that_are_not_asked_for_by_name_come_too(
    client: InferenceServerClient, served: Served, expected: Array
) -> None:
    np.testing.assert_allclose(scores_of(client.infer(served.name, [asking(EXAMPLES)])), expected, rtol=1e-5, atol=1e-6)


def test_a_request_keeps_its_id_and_may_carry_what_triton_would_heed(
    client: InferenceServerClient, served: Served
) -> None:
    heeded = {"sequence_id": 4, "sequence_start": True, "priority": 2, "timeout": 1_000_000, "parameters": {"own": "1"}}
    answer = client.infer(
        served.name, [asking(EXAMPLES)], model_version=served.version, request_id="seven", **heeded
    ).get_response()

    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", served.name, served.version)


def test_many_requests_at_once_each_get_their_own_answer(
    client: InferenceServerClient, served: Served, expected: Array
) -> None:
    waiting = [
        client.async_infer(served.name, [asking(EXAMPLES[index : index + 1])], request_id=str(index))
        for index in range(len(EXAMPLES))
    ]

    for index, asked in enumerate(waiting):
        result = asked.get_result(timeout=60)
        assert result.get_response()["id"] == str(index)
        np.testing.assert_allclose(scores_of(result), expected[index : index + 1], rtol=1e-4, atol=1e-5)


def test_statistics_count_what_was_answered_and_what_was_not(client: InferenceServerClient, served: Served) -> None:
    def counted() -> dict[str, Any]:
        (stats,) = client.get_inference_statistics(served.name)["model_stats"]
        return stats

    before = counted()
    client.infer(served.name, [asking(EXAMPLES[:3])])
    with pytest.raises(InferenceServerException):
        client.infer(served.name, [asking(EXAMPLES[:3], name="y")])
    after = counted()

    assert (after["name"], after["version"]) == (served.name, served.version)
    assert after["inference_count"] - before["inference_count"] == 3
    for kind in ("success", "fail"):
        was, now = before["inference_stats"][kind], after["inference_stats"][kind]
        assert now["count"] - was["count"] == 1
        assert now["ns"] > was["ns"]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            asking(np.zeros((1, 64), np.float32), name="image"),
            r"the model takes x float32\[-1, 64\], but was given image",
        ),
        (asking(np.zeros((1, 63), np.float32)), r"x float32\[-1, 64\].*\[1, 63\]"),
        (asking(np.zeros((1, 8, 8), np.float32)), r"x float32\[-1, 64\].*\[1, 8, 8\]"),
        (asking(np.zeros((1, 64), np.float64), datatype="FP64"), r"x float32\[-1, 64\].*float64"),
        (asking(np.full((1, 64), b"text", np.object_), datatype="BYTES"), "has datatype 'BYTES'; known: BOOL, "),
        (asking(np.zeros((129, 64), np.float32)), "a batch of 129 was sent; from 1 to 128 examples are taken"),
    ],
)
def test_a_wrong_input_ends_in_the_clients_own_exception_with_what_the_model_takes(
    client: InferenceServerClient, served: Served, tensor: InferInput, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as raised:
        client.infer(served.name, [tensor])

    assert raised.value.status() == "400"


def test_what_is_not_there_ends_in_the_clients_own_exception(client: InferenceServerClient, served: Served) -> None:
    inputs = [asking(EXAMPLES)]
    with pytest.raises(InferenceServerException, match="output 'labels' was asked for; the model gives logits"):
        client.infer(served.name, inputs, outputs=[InferRequestedOutput("labels")])
    with pytest.raises(InferenceServerException, match="classification; engines take and give tensors alone"):
        client.infer(served.name, inputs, outputs=[InferRequestedOutput(SCORES, class_count=3)])
    for name, version in (("other", ""), (served.name, "77")):
        with pytest.raises(InferenceServerException, match=f"served: {served.name}.* version {served.version}"):
            client.infer(name, inputs, model_version=version)


def test_what_only_triton_does_is_refused_and_never_breaks(client: InferenceServerClient, served: Served) -> None:
    for asked in (
        client.get_system_shared_memory_status,
        client.get_trace_settings,
        lambda: client.load_model(served.name),
        lambda: client.unload_model(served.name),
    ):
        with pytest.raises(InferenceServerException) as raised:
            asked()
        assert raised.value.status() in {"404", "405"}
    assert client.is_server_ready()
