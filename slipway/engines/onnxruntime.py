"""Engine ``onnxruntime``: ONNX Runtime's own CPU kernels, or its providers for NVIDIA GPUs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator, model_validator

from slipway.decisions.precision import count_precisions
from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import bad_file, first_installed, require_names
from slipway.engines.onnxruntime_gpu import (
    SILENT,
    DeviceBuffers,
    GpuLabel,
    open_on_gpu,
    read_label,
    require_provider,
    write_label,
)
from slipway.engines.onnxruntime_profile import MOST_CALLS, TOOL, file_layers, profiled_layers, read_events, trim
from slipway.engines.profiling import WARM_UP_CALLS, batch_of
from slipway.engines.session import CheckedSession
from slipway.errors import UnsupportedError
from slipway.records import Form, Option, Profile, Signature, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

NAME = "onnxruntime"
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")  # either brings the module of this name
PROVIDER = "CPUExecutionProvider"
ON_GPU = "on a GPU it is given fp32 alone; use torch or tensorrt"
REFUSED = {
    "bf16": "its CPU provider has no bfloat16 kernel for Conv, MatMul or Gemm; use openvino or torchscript",
    "fp16": "its CPU provider has no float16 kernel for Conv, MatMul or Gemm and would run in fp32; use torchscript",
}
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


class OnnxRuntimeSettings(Settings):
    """``provider`` is what executes the file: the CPU, or on an NVIDIA GPU ONNX Runtime's kernels or TensorRT.

    ``tf32`` lets a GPU round the inputs of products and convolutions to it. TensorRT builds its engine whenever the
    file is loaded: kept from one load to the next, it would be other bytes than those that the evidence is bound to.
    """

    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    tf32: bool = Field(False, validate_default=True)

    @field_validator("tf32")
    @classmethod
    def _on_a_gpu(cls, wanted: bool, info: ValidationInfo) -> bool:
        provider = info.data.get("provider")
        if wanted and provider == "cpu":
            raise ValueError("it is for a GPU: set provider too")
        if not wanted and provider == "tensorrt":
            raise ValueError(
                "ONNX Runtime has no option to keep TensorRT from TF32: set it to true, or use the engine tensorrt"
            )
        return wanted

    @model_validator(mode="after")
    def _on_this_host(self) -> Self:
        if self.provider != "cpu":
            require_provider(NAME, self.provider)
        return self

    def label(self) -> GpuLabel | None:
        """What a file for a GPU carries; None for the CPU."""
        return None if self.provider == "cpu" else GpuLabel(provider=self.provider, tf32=self.tf32)


class OnnxRuntimeEngine:
    """Fuses operators when it builds; lays out weights for the CPU it runs on when it loads.

    The file is saved at level EXTENDED and loaded at level ALL, which gives the answers and the speed of an unsaved
    session. Saved at ALL, it would hold weights in blocks of the building CPU's vector width; loaded without
    optimisation, an fp32 convolution net took 1.6 times as long. One for a GPU is saved at level BASIC: what EXTENDED
    fuses is chosen for the CPU's kernels.
    """

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.ONNX
    suffix: ClassVar[str] = ".onnx"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = OnnxRuntimeSettings
    shares_weights: ClassVar[Literal[True]] = True

    def availability(self) -> Availability:
        """Whether ONNX Runtime is installed."""
        return first_installed(NAME, DISTRIBUTIONS)

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Optimise the graph once and write it; the same source gives the same bytes.

        Raises:
            BadInputError: the source is not ONNX, or its names are not the signature's.
            UnsupportedError: the variant is bf16, an operator is unknown to the runtime, or the provider is not here.
        """
        import onnxruntime

        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        label = OnnxRuntimeSettings.model_validate(options.settings).label()
        if label and options.variant != "fp32":
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {ON_GPU}")
        levels = onnxruntime.GraphOptimizationLevel
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = levels.ORT_ENABLE_BASIC if label else levels.ORT_ENABLE_EXTENDED
        settings.optimized_model_filepath = str(out)
        session = _open(source, settings, threads=1)
        require_names(source, "inputs", (port.name for port in session.get_inputs()), options.signature.inputs)
        require_names(source, "outputs", (port.name for port in session.get_outputs()), options.signature.outputs)
        if label is None:
            return {"graph_optimization": "extended"}
        write_label(out, label)
        return {"graph_optimization": "basic", "provider": label.provider, **({"tf32": True} if label.tf32 else {})}

    def load(self, path: Path, options: RunOptions) -> OnnxRuntimeSession:
        """Open a file that this engine built, in one session whatever the streams: its ``run`` may be called at once.

        Two streams of a ResNet-18 answered as often from one session as from two, in half of the memory.

        Raises:
            BadInputError: the file is not ONNX.
            UnsupportedError: ONNX Runtime would run it on another provider than the one that it was built for.
        """
        import onnxruntime

        return _load(path, onnxruntime.SessionOptions(), options)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a file that this engine built executes, told by ONNX Runtime's own profiler.

        Raises:
            BadInputError: the file is not ONNX.
            UnsupportedError: ONNX Runtime would run it on another provider than the CPU's, or it is for a GPU.
        """
        import onnxruntime

        if read_label(NAME, path):
            raise UnsupportedError(f"engine {NAME} tells of a GPU's operators only how long it takes to start them")
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


class OnnxRuntimeGpuSession(OnnxRuntimeSession):
    """A session of ONNX Runtime on a GPU."""

    def __init__(self, path: Path, session: onnxruntime.InferenceSession) -> None:
        super().__init__(path, session)
        self._buffers = DeviceBuffers(session, self._output_names)

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        return self._buffers.infer(arrays)

    def _close(self) -> None:
        del self._buffers
        super()._close()


def _load(path: Path, settings: onnxruntime.SessionOptions, options: RunOptions) -> OnnxRuntimeSession:
    # A run computes on its caller's thread and on those of the pool, which holds one less than the threads asked for.
    pool = options.streams * (options.threads - 1)
    if label := read_label(NAME, path):
        require_provider(NAME, label.provider)
        return OnnxRuntimeGpuSession(path, _open(path, settings, threads=pool + 1, label=label))
    session = _open(path, settings, threads=pool + 1)
    if session.get_providers() != [PROVIDER]:
        raise UnsupportedError(f"engine {NAME} asked for {PROVIDER}, got {session.get_providers()}; reinstall it")
    session.disable_fallback()
    return OnnxRuntimeSession(path, session)


def _open(
    path: Path, settings: onnxruntime.SessionOptions, threads: int, label: GpuLabel | None = None
) -> onnxruntime.InferenceSession:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = SILENT
    try:
        if label is not None:
            return open_on_gpu(NAME, path, settings, label)
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
