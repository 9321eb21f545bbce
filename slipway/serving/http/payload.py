"""The bodies of inference requests and answers: JSON, with the binary tensor extension behind it or alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from slipway.errors import BadInputError
from slipway.serving.http.inference_json import (
    Array,
    array_of,
    brief,
    described,
    dtype_of,
    id_of,
    shape_of,
    tensors_of,
)

BINARY_SIZE = "binary_data_size"
BINARY_DATA = "binary_data"
BINARY_OUTPUT = "binary_data_output"
SEND_FLAT = "send data as one flat list, or in binary"
# Each costs Python much more than its two bytes: millions would keep everybody else waiting for many seconds.
MAX_LISTS = 2**20
ONLY_TENSORS = "; engines take and give tensors alone"


@dataclass(frozen=True)
class InferRequest:
    """What was asked: the arrays by name, and which outputs as which form, True for binary; None for all of them."""

    arrays: dict[str, Array]
    outputs: dict[str, bool] | None
    all_binary: bool
    request_id: str | None

    def wanted(self, outputs: Mapping[str, Array]) -> dict[str, bool]:
        """The outputs to answer with, True for binary.

        Raises:
            BadInputError: an output was asked for that the model does not have.
        """
        if self.outputs is None:
            return dict.fromkeys(outputs, self.all_binary)
        for name in self.outputs:
            if name not in outputs:
                raise BadInputError(f"output {brief(name)} was asked for; the model gives {', '.join(outputs)}")
        return self.outputs


def read_infer_request(body: bytes, head_bytes: int | None) -> InferRequest:
    """The request of a body whose first ``head_bytes`` are JSON and whose rest are tensors; None: all of it is JSON.

    Binary arrays share the body's memory and are read-only.

    Raises:
        BadInputError: the body is malformed or truncated.
    """
    if head_bytes is not None and not 0 <= head_bytes <= len(body):
        raise BadInputError(f"the body's JSON is said to take {head_bytes} bytes, the whole body has {len(body)}")
    try:
        return _read(body, head_bytes)
    except (MemoryError, RecursionError) as error:
        raise BadInputError(f"the request is too large or too deep: {type(error).__name__}") from error


def _read(body: bytes, head_bytes: int | None) -> InferRequest:
    head, tail = (body, b"") if head_bytes is None else (body[:head_bytes], memoryview(body)[head_bytes:])
    if (lists := head.count(b"[") + head.count(b"{")) > MAX_LISTS:
        raise BadInputError(f"the JSON holds {lists} lists and objects, at most {MAX_LISTS} are taken; {SEND_FLAT}")
    try:
        request = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise BadInputError(f"the request's body is not JSON: {error}") from error
    tensors = tensors_of(request)
    request_id = id_of(request)
    arrays, used = {}, 0
    for tensor in tensors:
        size = _parameters(tensor).get(BINARY_SIZE)
        if size is None:
            arrays[tensor["name"]] = array_of(tensor)
        else:
            arrays[tensor["name"]] = _binary(tensor, size, tail[used:])
            used += size
    if used != len(tail):
        raise BadInputError(f"the inputs' {BINARY_SIZE} add up to {used} bytes, {len(tail)} follow the JSON")
    outputs, all_binary = _asked_outputs(request)
    return InferRequest(arrays, outputs, all_binary, request_id)


def write_infer_response(
    head: Mapping[str, Any], outputs: Mapping[str, Array], wanted: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """The body with the ``wanted`` outputs, and the length of its JSON if tensors follow it; ``head`` begins it."""
    told, blobs = [], list[memoryview]()
    for name, binary in wanted.items():
        array = np.ascontiguousarray(outputs[name])
        if binary:
            blobs.append(array.data)
            told.append(described(name, array) | {"parameters": {BINARY_SIZE: array.nbytes}})
        else:
            told.append(described(name, array) | {"data": array.ravel()})
    json = orjson.dumps({**head, "outputs": told}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((json, *blobs)), len(json)) if blobs else (json, None)


def _binary(tensor: Mapping[str, Any], size: object, rest: memoryview | bytes) -> Array:
    dtype, shape = dtype_of(tensor), shape_of(tensor)
    wanted = dtype.itemsize * math.prod(shape)
    if size != wanted or type(size) is not int:
        raise BadInputError(
            f"input {brief(tensor['name'])} has {BINARY_SIZE} {brief(size)}, {dtype}{list(shape)} takes {wanted} bytes"
        )
    if len(rest) < wanted:
        raise BadInputError(f"input {brief(tensor['name'])} takes {wanted} bytes, the body ends after {len(rest)}")
    if "data" in tensor:
        raise BadInputError(f"input {brief(tensor['name'])} has both data and {BINARY_SIZE}; give one of them")
    try:
        return np.frombuffer(rest[:wanted], dtype).reshape(shape)
    except ValueError as error:
        raise BadInputError(f"input {brief(tensor['name'])} cannot be {dtype}{list(shape)}: {error}") from error


def _asked_outputs(request: Mapping[str, Any]) -> tuple[dict[str, bool] | None, bool]:
    all_binary = bool(_parameters(request).get(BINARY_OUTPUT, False))
    outputs = request.get("outputs")
    if outputs is None or outputs == []:
        return None, all_binary
    if not isinstance(outputs, list) or not all(
        isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in outputs
    ):
        raise BadInputError('outputs is a list of objects such as [{"name": "logits"}]')
    for one in outputs:
        if "classification" in _parameters(one):
            raise BadInputError(f"output {brief(one['name'])} was asked for as classification{ONLY_TENSORS}")
    return {one["name"]: bool(_parameters(one).get(BINARY_DATA, all_binary)) for one in outputs}, all_binary


def _parameters(of: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = of.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise BadInputError(f"parameters is an object, found {brief(parameters)}")
    return parameters
