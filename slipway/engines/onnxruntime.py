"""Engine ``onnxruntime``: ONNX Runtime's own CPU kernels."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from slipway.decisions.precision import count_precisions
from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import bad_file, installed, require_names
from slipway.engines.onnxruntime_profile import MOST_CALLS, TOOL, file_layers, profiled_layers, read_events, trim
from slipway.engines.profiling import WARM_UP_CALLS, batch_of
from slipway.engines.session import CheckedSession
from slipway.errors import UnsupportedError
from slipway.records import Form, Option, Profile, Signature, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

NAME = "onnxruntime"
PROVIDER = "CPUExecutionProvider"
REFUSED = {
    "bf16": "its CPU provider has no bfloat16 kernel for Conv, MatMul or Gemm; use openvino or torchscript",
    "fp16": "its CPU provider has no float16 kernel for Conv, MatMul or Gemm and would run in fp32; use torchscript",
}
SILENT = 4  # ONNX Runtime's severity "fatal": everything below is raised as well as logged
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class OnnxRuntimeEngine:
    """Fuses operators when it builds; lays out weights for the CPU it runs on when it loads.

    The file is saved at level EXTENDED and loaded at level ALL, which gives the answers and the speed of an unsaved
    session. Saved at ALL, it would hold weights in blocks of the building CPU's vector width; loaded without
    optimisation, an fp32 convolution net took 1.6 times as long.
    """

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.ONNX
    suffix: ClassVar[str] = ".onnx"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = Settings
    shares_weights: ClassVar[Literal[True]] = True

    def availability(self) -> Availability:
        """Whether ONNX Runtime is installed."""
        return installed(NAME, "onnxruntime", NAME)

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Optimise the graph once and write it; the same source gives the same bytes.

        Raises:
            BadInputError: the source is not ONNX, or its names are not the signature's.
            UnsupportedError: the variant is bf16, or an operator is unknown to the runtime.
        """
        import onnxruntime

        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        settings.optimized_model_filepath = str(out)
        session = _open(source, settings, threads=1)
        require_names(source, "inputs", (port.name for port in session.get_inputs()), options.signature.inputs)
        require_names(source, "outputs", (port.name for port in session.get_outputs()), options.signature.outputs)
        return {"graph_optimization": "extended"}

    def load(self, path: Path, options: RunOptions) -> OnnxRuntimeSession:
        """Open a file that this engine built, in one session whatever the streams: its ``run`` may be called at once.

        Two streams of a ResNet-18 answered as often from one session as from two, in half of the memory.

        Raises:
            BadInputError: the file is not ONNX.
            UnsupportedError: ONNX Runtime would run it on another provider than the CPU's.
        """
        import onnxruntime

        return _load(path, onnxruntime.SessionOptions(), options)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a file that this engine built executes, told by ONNX Runtime's own profiler.

        Raises:
            BadInputError: the file is not ONNX.
            UnsupportedError: ONNX Runtime would run it on another provider than the CPU's.
        """
        import onnxruntime

        calls = min(calls, MOST_CALLS)
        with tempfile.TemporaryDirectory() as folder:
            settings = onnxruntime.SessionOptions()
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / "profile")
            with _load(path, settings, options) as session:
                for _ in range(WARM_UP_CALLS + calls):
                    session.infer(arrays)
            events = read_events(Path(folder))
        trim(events, trace)
        layers = profiled_layers(events, path, calls)
        return Profile(tool=TOOL, layers=layers, calls=calls, batch=batch_of(arrays), threads=options.threads)


class OnnxRuntimeSession(CheckedSession):
    """A session of ONNX Runtime on the CPU."""

    def __init__(self, path: Path, session: onnxruntime.InferenceSession) -> None:
        super().__init__(Signature(inputs=_specs(session.get_inputs()), outputs=_specs(session.get_outputs())))
        self._path = path
        self._session = session
        self._output_names = [spec.name for spec in self.outputs]

    def executed_precision(self) -> dict[str, int]:
        """Operators of the optimised graph that multiply and accumulate, counted by precision."""
        return count_precisions(file_layers(self._path))

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        outputs = self._session.run(self._output_names, dict(arrays))
        return dict(zip(self._output_names, outputs, strict=True))

    def _close(self) -> None:
        del self._session


def _load(path: Path, settings: onnxruntime.SessionOptions, options: RunOptions) -> OnnxRuntimeSession:
    # A run computes on its caller's thread and on those of the pool, which holds one less than the threads asked for.
    pool = options.streams * (options.threads - 1)
    session = _open(path, settings, threads=pool + 1)
    if session.get_providers() != [PROVIDER]:
        raise UnsupportedError(f"engine {NAME} asked for {PROVIDER}, got {session.get_providers()}; reinstall it")
    session.disable_fallback()
    return OnnxRuntimeSession(path, session)


def _open(path: Path, settings: onnxruntime.SessionOptions, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = SILENT
    try:
        return onnxruntime.InferenceSession(path, settings, providers=[PROVIDER])
    except (errors.InvalidProtobuf, errors.InvalidArgument, errors.NoSuchFile) as error:
        raise bad_file(NAME, path, "an ONNX model") from error
    except (
        errors.NotImplemented,
        errors.InvalidGraph,
        errors.Fail,
    ) as error:  # sound ONNX that this runtime cannot run
        raise UnsupportedError(f"engine {NAME} cannot execute this model: {' '.join(str(error).split())}") from error


def _specs(ports: list[onnxruntime.NodeArg]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=port.name,
            dtype=DTYPES[port.type],
            shape=tuple(size if isinstance(size, int) else -1 for size in port.shape),
        )
        for port in ports
    )
