from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from slipway.errors import BadInputError
from slipway.serving.http.inference_json import DATATYPES, read_request, write_response
from slipway.serving.http.payload import MAX_LISTS, read_infer_request, write_infer_response


def request(**changes: Any) -> dict[str, Any]:
    """A request with one tensor, changed as asked."""
    return {"inputs": [{"name": "image", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4.5]]} | changes]}


def nested(deep: int) -> list[Any]:
    """A list in a list in a list."""
    found: list[Any] = []
    for _ in range(deep):
        found = [found]
    return found


@pytest.mark.parametrize("data", [[[1, 2], [3, 4.5]], [1, 2, 3, 4.5]])
def test_data_come_nested_or_flat(data: list[object]) -> None:
    (array,) = read_request(request(data=data)).values()

    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.array([[1, 2], [3, 4.5]]))


@pytest.mark.parametrize(("dtype", "datatype"), DATATYPES.items())
def test_every_datatype_survives_the_way_there_and_back(dtype: str, datatype: str) -> None:
    sent = np.array([[0, 1], [1, 0]], dtype)
    answer = json.loads(json.dumps(write_response("m", "1", {"y": sent})))

    assert (answer["model_name"], answer["model_version"]) == ("m", "1")
    (output,) = answer["outputs"]
    assert output["datatype"] == datatype
    (received,) = read_request({"inputs": [output]}).values()
    assert received.dtype == sent.dtype
    np.testing.assert_array_equal(received, sent)


def test_an_empty_batch_is_an_array_too() -> None:
    assert read_request(request(shape=[0, 2], data=[]))["image"].shape == (0, 2)


@pytest.mark.parametrize(
    "wrong", [None, [], "text", {}, {"inputs": None}, {"inputs": {}}, {"inputs": ["image"]}, {"inputs": [None]}]
)
def test_what_is_no_request_is_told_what_one_is(wrong: object) -> None:
    with pytest.raises(BadInputError, match=r"^a request is a JSON object such as "):
        read_request(wrong)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": None}, "every input has a name of its own, found None"),
        ({"datatype": "FP8"}, "input 'image' has datatype 'FP8'; known: BOOL, UINT8, "),
        ({"shape": [True, 4]}, r"has shape \[True, 4\]"),
        ({"datatype": None}, "has datatype None"),
        ({"shape": "2x2"}, "has shape '2x2'"),
        ({"shape": [-1, 2]}, r"has shape \[-1, 2\]"),
        ({"shape": [3, 2]}, "cannot reshape array of size 4"),
        ({"data": ["a", "b", "c", "d"]}, "cannot take str as float32"),
        ({"data": ["a" * 20_000, *[""] * 15_000]}, "cannot take str as float32"),
        ({"data": [1, 2, 3, None]}, "cannot take NoneType as float32"),
        ({"data": [{}, {}]}, "cannot take dict as float32"),
        ({"data": [1, 2, 3, 10**400]}, "cannot take object as float32"),
        ({"data": [[1, 2], [3]]}, "inhomogeneous"),
        ({"data": [[1, 2], 3]}, "inhomogeneous"),
        ({"data": nested(1000)}, "lists lie more than 64 deep"),
        ({"data": None}, "does not hold float32"),
        ({"data": {"a": 1}}, "data are a list of numbers"),
        ({"shape": [2**63 - 1] * 45_000}, "has 45000 dimensions; at most 64 are taken"),
        ({"shape": [1] * 65}, "has 65 dimensions"),
        ({"shape": [0, 2**63 - 1, 8]}, "has shape .0, 9223372036854775807, 8."),
        ({"shape": [0, 2**31 - 1, 2**31 - 1], "data": []}, "at most 1099511627776 elements are taken"),
        ({"shape": nested(1000)}, r"has shape \[\[\["),
        ({"datatype": nested(1000)}, r"has datatype \[\[\["),
        ({"datatype": "INT8", "data": [1, 2, 3, 400]}, "a value is beyond int8"),
        ({"datatype": "INT8", "data": [1, 2, 3, 4.5]}, "cannot take float64 as int8"),
        ({"datatype": "UINT8", "data": [1, 2, 3, -1]}, "a value is beyond uint8"),
    ],
)
def test_a_tensor_that_does_not_hold_what_it_says_is_refused_in_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as caught:
        read_request(request(**changes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_exhausts_memory_or_stack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (MemoryError, RecursionError):

        def exhausted(_: object, kind: type[Exception] = kind) -> None:
            raise kind

        monkeypatch.setattr("slipway.serving.http.inference_json.np.asarray", exhausted)
        with pytest.raises(BadInputError, match=f"does not hold float32.*: {kind.__name__}"):
            read_request(request())


@pytest.mark.parametrize("one", ["[]", "{}"])
def test_millions_of_lists_are_refused_before_python_makes_them(one: str) -> None:
    body = json.dumps(request(data="DATA")).replace('"DATA"', f"[{','.join([one] * MAX_LISTS)}]").encode()
    with pytest.raises(
        BadInputError, match=rf"holds \d+ lists and objects, at most {MAX_LISTS} are taken; send data as"
    ):
        read_infer_request(body, None)


def test_what_is_no_finite_number_is_answered_as_null() -> None:
    answer = write_response("m", "1", {"y": np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32)}, "seven")

    assert json.loads(json.dumps(answer, allow_nan=False))["outputs"][0]["data"] == [1.5, None, None, None]
    assert answer["id"] == "seven"


def test_two_inputs_of_one_name_are_refused() -> None:
    (tensor,) = request()["inputs"]
    with pytest.raises(BadInputError, match="every input has a name of its own, found 'image', 'image'"):
        read_request({"inputs": [tensor, tensor]})


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 2), np.float32),
        np.array(7, np.int64),
        np.array([True, False]),
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.arange(24, dtype=np.int32).reshape(2, 3, 4)[:, ::2, 1:].transpose(2, 0, 1),
    ],
)
def test_any_array_is_answered_in_binary_behind_the_json(array: np.ndarray) -> None:
    body, head_bytes = write_infer_response({"model_name": "m"}, {"y": array, "z": array[...]}, {"y": True, "z": True})

    assert head_bytes is not None
    told = json.loads(body[:head_bytes])["outputs"]
    assert [one["parameters"]["binary_data_size"] for one in told] == [array.nbytes] * 2
    for at, one in zip((head_bytes, head_bytes + array.nbytes), told, strict=True):
        found = np.frombuffer(body[at : at + array.nbytes], array.dtype).reshape(one["shape"])
        np.testing.assert_array_equal(found, array)
