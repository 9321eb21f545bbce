"""ONNX Runtime on an NVIDIA GPU: the provider that a file is for, a session on it alone, and reused buffers."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from slipway.engines.base import Arrays
from slipway.engines.checks import bad_file
from slipway.engines.nvidia_gpu import not_on_gpu, require_gpu
from slipway.engines.onnxruntime_profile import FLOAT_KINDS, INT8_KINDS
from slipway.errors import UnsupportedError
from slipway.records import Record

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
INSTEAD = "provider: cpu"
PROPERTY = "slipway.gpu"
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
LABEL_BYTES = 1024
SILENT = 4  # ONNX Runtime's severity "fatal": everything below is raised as well as logged


class GpuLabel(Record):
    """The provider that a file is for, and whether it may compute products of fp32 in TF32."""

    provider: Literal["cuda", "tensorrt"]
    tf32: bool

    @property
    def provider_name(self) -> str:
        """As ONNX Runtime calls it."""
        return PROVIDERS[self.provider]

    def options(self) -> dict[str, str]:
        """The provider's options; TensorRT's has none for TF32, which it always allows."""
        return {"device_id": "0"} | ({"use_tf32": str(int(self.tf32))} if self.provider == "cuda" else {})


def write_label(path: Path, label: GpuLabel) -> None:
    """Put ``label`` among the properties of the ONNX file at ``path``: such messages add up where they are joined."""
    import onnx

    entry = onnx.StringStringEntryProto(key=PROPERTY, value=label.model_dump_json())
    with path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString(deterministic=True))


def read_label(engine: str, path: Path) -> GpuLabel | None:
    """The label at the end of the ONNX file at ``path``; None of one for the CPU, and of what is no ONNX file.

    Raises:
        BadInputError: the label is damaged.
    """
    try:
        with path.open("rb") as file:
            file.seek(-min(LABEL_BYTES, path.stat().st_size), os.SEEK_END)  # what is before may be gigabytes
            _, found, told = file.read().rpartition(PROPERTY.encode())
    except OSError:  # the runtime tells what is wrong with such a file
        return None
    if not found:
        return None
    try:
        return GpuLabel.model_validate_json(told[max(told.find(b"{"), 0) :])
    except ValueError as error:
        raise bad_file(engine, path, "an ONNX model whose label says what GPU it is for") from error


def require_provider(engine: str, provider: str) -> None:
    """Check that this host has a GPU, and ONNX Runtime the ``provider`` (cuda or tensorrt) for it.

    Raises:
        UnsupportedError: one of the two is missing; the message tells which, and what brings it.
    """
    require_gpu(engine, INSTEAD)
    import onnxruntime

    _preload()
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise not_on_gpu(
            engine,
            f"ONNX Runtime {onnxruntime.__version__} has {', '.join(available)}, and not {PROVIDERS[provider]}; "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu",
            INSTEAD,
        )


def open_on_gpu(
    engine: str, path: Path, settings: onnxruntime.SessionOptions, label: GpuLabel
) -> onnxruntime.InferenceSession:
    """A session on the provider of ``label``, which computes every product and convolution.

    What ONNX Runtime keeps on the CPU beside them, such as the sizes of tensors, stays there.

    Raises:
        UnsupportedError: the provider does not start, or leaves an operator that multiplies to another one.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    wanted = label.provider_name
    settings.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    onnxruntime.set_default_logger_severity(SILENT)  # what concerns providers is not told to the session's own
    _preload()
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=[(wanted, label.options())], enable_fallback=0)
    except (RuntimeError, errors.EPFail, errors.RuntimeException) as error:
        raise not_on_gpu(engine, f"{wanted} does not start: {' '.join(str(error).split())}", INSTEAD) from error
    if (active := session.get_providers())[0] != wanted:
        reason = f"{wanted} was asked for, and {', '.join(active)} is active: its libraries do not load"
        raise not_on_gpu(engine, f"{reason}; install CUDA {_cuda_version()}with cuDNN, and TensorRT for that", INSTEAD)
    if left := left_to_others(session, wanted):
        raise UnsupportedError(f"engine {engine} cannot execute this model on {wanted}: it leaves {', '.join(left)}")
    session.disable_fallback()
    return session


@functools.cache
def _preload() -> None:
    """Load CUDA's libraries from their packages, where they are installed so."""
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the session then tells
        onnxruntime.preload_dlls()


def _cuda_version() -> str:
    """The one that ONNX Runtime was built for, and a blank; empty where it does not tell."""
    import onnxruntime

    version = getattr(onnxruntime, "cuda_version", "")
    return f"{version} " if version else ""


def left_to_others(session: onnxruntime.InferenceSession, wanted: str) -> list[str]:
    """Operators that multiply, and that another provider than ``wanted`` computes: ``Conv to CPUExecutionProvider``."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != wanted]
    return sorted(
        {
            f"{node.op_type} to {part.ep_name}"
            for part in parts
            for node in part.get_nodes()
            if node.op_type in FLOAT_KINDS | INT8_KINDS
        }
    )


class DeviceBuffers:
    """Buffers on the GPU for what a session is given: a set for each caller at once, reused from call to call.

    For answers the session takes memory from its own arena, which it reuses likewise.
    """

    def __init__(self, session: onnxruntime.InferenceSession, outputs: Sequence[str], device: str = "cuda") -> None:
        self._session = session
        self._outputs = outputs
        self._device = device
        self._free: deque[_Binding] = deque()

    def infer(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Outputs by name, the caller's own."""
        try:
            binding = self._free.pop()
        except IndexError:
            binding = _Binding(self._session, self._outputs, self._device)
        answers = binding.infer(arrays)
        self._free.append(binding)
        return answers


class _Binding:
    """One caller's buffers, and what is bound to them."""

    def __init__(self, session: onnxruntime.InferenceSession, outputs: Sequence[str], device: str) -> None:
        self._session = session
        self._outputs = outputs
        self._device = device
        self._bound = session.io_binding()
        self._buffers: dict[str, onnxruntime.OrtValue] = {}

    def infer(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        for name, array in arrays.items():
            self._buffer(name, array).update_inplace(array)
        for name in self._outputs:  # anew: what the last call answered is still bound, in its shape
            self._bound.bind_output(name, self._device, 0)
        self._session.run_with_iobinding(self._bound)
        return dict(zip(self._outputs, self._bound.copy_outputs_to_cpu(), strict=True))

    def _buffer(self, name: str, array: npt.NDArray[np.generic]) -> onnxruntime.OrtValue:
        import onnxruntime

        buffer = self._buffers.get(name)
        if buffer is None or tuple(buffer.shape()) != array.shape:
            shape, kind = list(array.shape), array.dtype.type
            buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, self._device, 0)
            self._buffers[name] = buffer
            self._bound.bind_ortvalue_input(name, buffer)
        return buffer
