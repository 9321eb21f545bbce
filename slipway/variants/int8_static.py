"""The int8-static variant: ONNX with quantize and dequantize nodes, activation ranges taken from calibration data."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway.errors import BadInputError, RejectedError, UnsupportedError
from slipway.variants.root_logger import quiet_root_logger

if TYPE_CHECKING:
    import onnx

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.generic]]

COMPUTE_TYPES = ("Conv", "MatMul", "Gemm")


def quantize_onnx_static(source: Path, out: Path, calibration: Iterable[Arrays]) -> tuple[str, ...]:
    """Write an fp32 ONNX file's int8-static form and return what was quantized, in words.

    Weights are s8 per channel, activations u8 per tensor with the least and the greatest value seen in calibration
    (MinMax). ``calibration`` is read once, a batch at a time; batches may differ in size.

    Raises:
        UnsupportedError: the model has no convolution or matrix product.
        BadInputError: the calibration data is empty, or lacks an input.
        RejectedError: ONNX Runtime cannot quantize the model.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(source)
    if not any(node.op_type in COMPUTE_TYPES for node in model.graph.node):
        raise UnsupportedError(f"int8-static: the model has no {', '.join(COMPUTE_TYPES)}")
    reader = CalibrationReader(calibration, _input_names(model))
    try:
        with tempfile.TemporaryDirectory() as directory, quiet_root_logger():
            prepared = Path(directory) / "prepared.onnx"
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            # CalibMaxIntermediateOutputs would forget whole batches (onnxruntime issue 18893); without it ONNX Runtime
            # keeps two numbers per tensor and batch, not the tensors.
            quantize_static(
                prepared,
                out,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except BadInputError:
        raise
    except Exception as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RejectedError(f"int8-static: ONNX Runtime cannot quantize the model: {cause}") from error
    return (*_quantized(onnx.load(out)), f"calibrated on {reader.examples} examples")


class CalibrationReader:
    """What ONNX Runtime's calibration draws batches from.

    Raises:
        BadInputError: there is no first batch.
    """

    def __init__(self, batches: Iterable[Arrays], inputs: tuple[str, ...]) -> None:
        iterator = iter(batches)
        first = next(iterator, None)
        if first is None:
            raise BadInputError("int8-static: the calibration data is empty; set data.calibration")
        self._batches: Iterator[Arrays] = chain([first], iterator)
        self._inputs = inputs
        self.examples = 0

    def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
        """The next batch by input name; None at the end.

        Raises:
            BadInputError: the batch lacks an input.
        """
        batch = next(self._batches, None)
        if batch is None:
            return None
        missing = [name for name in self._inputs if name not in batch]
        if missing:
            raise BadInputError(f"int8-static: calibration data lacks input {missing[0]!r}; it has {', '.join(batch)}")
        self.examples += len(batch[self._inputs[0]])
        return {name: batch[name] for name in self._inputs}


def _input_names(model: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(value.name for value in model.graph.input)


def _quantized(model: onnx.ModelProto) -> tuple[str, ...]:
    dequantized = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    total = Counter(node.op_type for node in model.graph.node)
    int8 = Counter(node.op_type for node in model.graph.node if set(node.input[:2]) <= dequantized)
    return tuple(f"{int8[kind]} of {total[kind]} {kind} in int8" for kind in COMPUTE_TYPES if total[kind])
