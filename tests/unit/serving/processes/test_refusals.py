"""The protocol over HTTP, spoken to a real engine: what is refused, and how."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unit.serving.asking import HEAD, INFER, NAME, in_binary, in_json, packed
from tests.unit.steps.material import images

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
