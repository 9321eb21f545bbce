"""The words of the Open Inference Protocol (version 2): datatypes, and tensors in JSON."""

from __future__ import annotations

from collections.abc import Mapping
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
        raise BadInputError(f"every input has a name of its own, found {', '.join(map(repr, names))}")
    return tensors


def dtype_of(tensor: Mapping[str, Any]) -> np.dtype[Any]:
    """The type that a tensor says its data have.

    Raises:
        BadInputError: there is no such datatype.
    """
    dtype = _DTYPES.get(str(tensor.get("datatype")))
    if dtype is None:
        raise BadInputError(
            f"input {tensor['name']!r} has datatype {tensor.get('datatype')!r}; known: {', '.join(_DTYPES)}"
        )
    return dtype


def shape_of(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that a tensor says its data have.

    Raises:
        BadInputError: it is no list of sizes.
    """
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise BadInputError(f"input {tensor['name']!r} has shape {shape!r}; a shape is a list of sizes, such as [1, 3]")
    return tuple(shape)


def array_of(tensor: Mapping[str, Any]) -> Array:
    """The array of a tensor whose ``data`` stand beside it in JSON, nested or flat, row by row.

    Raises:
        BadInputError: the data do not fit what the tensor says of itself.
    """
    dtype, shape = dtype_of(tensor), shape_of(tensor)
    try:
        data = np.asarray(tensor.get("data"))
        _require_held(data, dtype)
        return data.astype(dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise BadInputError(f"input {tensor['name']!r} does not hold {dtype}{list(shape)}: {reason}") from error


def read_request(request: object) -> dict[str, Array]:
    """The arrays by name of a request all in JSON; names, ranks and sizes are left to the session to check.

    Raises:
        BadInputError: the request is malformed.
    """
    return {tensor["name"]: array_of(tensor) for tensor in tensors_of(request)}


def described(name: str, array: Array) -> dict[str, Any]:
    """What is said of an output, without its data."""
    return {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}


def write_response(model: str, version: str, outputs: Mapping[str, Array]) -> dict[str, Any]:
    """What is answered in JSON: every output with its data laid flat."""
    told = [described(name, array) | {"data": array.ravel().tolist()} for name, array in outputs.items()]
    return {"model_name": model, "model_version": version, "outputs": told}


def metadata_of(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    """A signature's half as the protocol tells it."""
    return [{"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(spec.shape)} for spec in specs]


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
