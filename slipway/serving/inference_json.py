"""Tensors in JSON, as the Open Inference Protocol (version 2) writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway.errors import BadInputError
from slipway.records import TensorSpec

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


def read_request(request: object, inputs: tuple[TensorSpec, ...]) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays by name of a request such as ``{"inputs": [{"name", "shape", "datatype", "data"}]}``.

    ``data`` may be nested or flat, row by row. Names, ranks and sizes are left to the session to check.

    Raises:
        BadInputError: the request is no such object, or a tensor's data do not fit what it says of itself.
    """
    tensors = request.get("inputs") if isinstance(request, Mapping) else None
    if not isinstance(tensors, list) or not all(isinstance(tensor, Mapping) for tensor in tensors):
        raise BadInputError(f"a request is a JSON object with a list of inputs; this engine takes {_expected(inputs)}")
    return {str(tensor.get("name")): _array(tensor, inputs) for tensor in tensors}


def write_response(model: str, version: str, outputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Any]:
    """What is answered: every output with its shape, its datatype, and its data laid flat."""
    return {
        "model_name": model,
        "model_version": version,
        "outputs": [
            {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name], "data": _flat(array)}
            for name, array in outputs.items()
        ],
    }


def _array(tensor: Mapping[str, Any], inputs: tuple[TensorSpec, ...]) -> npt.NDArray[np.generic]:
    dtypes = {datatype: dtype for dtype, datatype in DATATYPES.items()}
    dtype = dtypes.get(str(tensor.get("datatype")))
    if dtype is None:
        raise _wrong(tensor, f"has datatype {tensor.get('datatype')!r}", inputs)
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise _wrong(tensor, f"has shape {shape!r}", inputs)
    try:
        data = np.asarray(tensor.get("data"))
        _require_held(data, np.dtype(dtype))
        return data.astype(dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _wrong(tensor, f"does not hold {dtype}{shape}: {error}", inputs) from error


def _require_held(data: npt.NDArray[np.generic], dtype: np.dtype[Any]) -> None:
    """JSON knows whole numbers and others: a whole one has to lie within the type, any other is not bent into one."""
    if not data.size:
        return
    if data.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if data.min() < limits.min or data.max() > limits.max:
            raise ValueError(f"a value is beyond {dtype}")
    elif not np.can_cast(data.dtype, dtype, "same_kind"):
        raise ValueError(f"cannot take {data.dtype} as {dtype}")


def _wrong(tensor: Mapping[str, Any], what: str, inputs: tuple[TensorSpec, ...]) -> BadInputError:
    return BadInputError(f"input {tensor.get('name')!r} {what}; this engine takes {_expected(inputs)}")


def _expected(inputs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {DATATYPES.get(spec.dtype, spec.dtype)}{list(spec.shape)}" for spec in inputs)


def _flat(array: npt.NDArray[np.generic]) -> list[Any]:
    flat: list[Any] = array.ravel().tolist()
    return flat
