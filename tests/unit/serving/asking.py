"""What a client sends to the server of the tiny model, and how it reads the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from slipway.serving.http.inference_json import Array
from slipway.serving.http.limits import Limits

NAME = "tiny.x86"
INFER = f"/v2/models/{NAME}/infer"
LIMITS = Limits(body_bytes=200_000, batch=8, waiting=2, request_seconds=5, drain_seconds=5)
HEAD = "Inference-Header-Content-Length"


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
