"""The words of the Open Inference Protocol (version 2): datatypes, and tensors in JSON."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway.errors import BadInputError
from slipway.records import TensorSpec

Array = npt.NDArray[np.generic]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_DTYPES = {datatype: np.dtype(dtype) for dtype, datatype in DATATYPES.items()}

# Whoever sends a shape may send any: these bounds let it be multiplied and printed at no cost worth speaking of.
MAX_DIMENSIONS = 64
MAX_SIZE = 2**31 - 1
MAX_ELEMENTS = 2**40

_NUMBERS = {bool, int, float}
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 100


def brief(value: object) -> str:
    """What a client sent, cut to a length that an error's one line can bear however long or deep it is."""
    return _BRIEF.repr(value)


def tensors_of(request: object) -> list[Mapping[str, Any]]:
    """The inputs of a request such as ``{"inputs": [{"name", "shape", "datatype", "data"}]}``.

    Raises:
        BadInputError: it is no such object.
    """
    tensors = request.get("inputs") if isinstance(request, Mapping) else None
    if not isinstance(tensors, list) or not all(isinstance(tensor, Mapping) for tensor in tensors):
        raise BadInputError('a request is a JSON object such as {"inputs": [{"name", "shape", "datatype", "data"}]}')
    names = [tensor.get("name") for tensor in tensors]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        found = ", ".join(map(brief, names[:MAX_DIMENSIONS]))
        raise BadInputError(f"every input has a name of its own, found {found}")
    return tensors


def dtype_of(tensor: Mapping[str, Any]) -> np.dtype[Any]:
    """The type that a tensor says its data have.

    Raises:
        BadInputError: there is no such datatype.
    """
    told = tensor.get("datatype")
    dtype = _DTYPES.get(told) if isinstance(told, str) else None
    if dtype is None:
        raise BadInputError(f"input {brief(tensor['name'])} has datatype {brief(told)}; known: {', '.join(_DTYPES)}")
    return dtype


def shape_of(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that a tensor says its data have.

    Raises:
        BadInputError: it is no list of sizes, or of more and larger ones than any array has.
    """
    shape, name = tensor.get("shape"), brief(tensor["name"])
    if isinstance(shape, list) and len(shape) > MAX_DIMENSIONS:
        raise BadInputError(f"input {name} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are taken")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= MAX_SIZE for size in shape):
        raise BadInputError(
            f"input {name} has shape {brief(shape)}; a shape is a list of sizes, such as [1, 3], up to {MAX_SIZE}"
        )
    # A size of 0 empties the array, but not what an engine may make of its other sizes.
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise BadInputError(f"input {name} has shape {brief(shape)}; at most {MAX_ELEMENTS} elements are taken")
    return tuple(shape)


def array_of(tensor: Mapping[str, Any]) -> Array:
    """The array of a tensor whose ``data`` stand beside it in JSON, nested or flat, row by row.

    Raises:
        BadInputError: the data do not fit what the tensor says of itself.
    """
    dtype, shape = dtype_of(tensor), shape_of(tensor)
    try:
        data = np.asarray(_numbers(tensor.get("data"), dtype))
        _require_held(data, dtype)
        return data.astype(dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInputError(f"input {brief(tensor['name'])} does not hold {dtype}{list(shape)}: {reason}") from error


def read_request(request: object) -> dict[str, Array]:
    """The arrays by name of a request all in JSON; names, ranks and sizes are left to the session to check.

    Raises:
        BadInputError: the request is malformed.
    """
    return {tensor["name"]: array_of(tensor) for tensor in tensors_of(request)}


def described(name: str, array: Array) -> dict[str, Any]:
    """What is said of an output, without its data."""
    return {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}


def write_response(
    model: str, version: str, outputs: Mapping[str, Array], request_id: str | None = None
) -> dict[str, Any]:
    """What is answered in JSON: every output with its data laid flat, null where it is no finite number."""
    told = [described(name, array) | {"data": _in_json(array.ravel())} for name, array in outputs.items()]
    head = {"model_name": model, "model_version": version}
    return (head if request_id is None else head | {"id": request_id}) | {"outputs": told}


def id_of(request: Mapping[str, Any]) -> str | None:
    """What the client calls its request, if it calls it anything.

    Raises:
        BadInputError: it is no string.
    """
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise BadInputError(f"a request's id is a string, found {brief(request_id)}")
    return request_id


def metadata_of(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    """A signature's half as the protocol tells it."""
    return [{"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(spec.shape)} for spec in specs]


def _numbers(data: object, dtype: np.dtype[Any]) -> list[Any]:
    """The numbers in ``data``, row by row; NumPy is shown nothing else, as it makes room for all it is shown."""
    if not isinstance(data, list):
        raise TypeError(f"data are a list of numbers, found {brief(data)}")
    for _ in range(MAX_DIMENSIONS):
        kinds = set(map(type, data))
        if kinds <= _NUMBERS:
            return data
        if kinds != {list}:
            others = sorted(kind.__name__ for kind in kinds - _NUMBERS - {list})
            raise TypeError(f"cannot take {others[0]} as {dtype}" if others else "inhomogeneous lists")
        if len(set(map(len, data))) > 1:
            raise ValueError("inhomogeneous lists")
        data = list(chain.from_iterable(data))
    raise ValueError(f"lists lie more than {MAX_DIMENSIONS} deep")


def _in_json(flat: Array) -> list[Any]:
    """JSON has no word for NaN and the infinities."""
    values: list[Any] = flat.tolist()
    if flat.dtype.kind != "f" or np.isfinite(flat).all():
        return values
    return [value if math.isfinite(value) else None for value in values]


def _require_held(data: Array, dtype: np.dtype[Any]) -> None:
    """JSON knows whole numbers and others: a whole one has to lie within the type, any other is not bent into one."""
    if not data.size:
        return
    if data.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if data.min() < limits.min or data.max() > limits.max:
            raise ValueError(f"a value is beyond {dtype}")
    elif not np.can_cast(data.dtype, dtype, "same_kind"):
        raise ValueError(f"cannot take {data.dtype} as {dtype}")
