"""A loaded plan of TensorRT or TensorRT-RTX as a session, and its profile."""

from __future__ import annotations

import importlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway.decisions.precision import count_precisions
from slipway.engines.base import Arrays, RunOptions
from slipway.engines.checks import bad_file
from slipway.engines.nvidia_gpu import first_gpu
from slipway.engines.nvidia_memory import Memory, gpu_memory
from slipway.engines.profiling import WARM_UP_CALLS, batch_of
from slipway.engines.session import CheckedSession
from slipway.engines.tensorrt_build import silent_log
from slipway.engines.tensorrt_file import Label, read_file
from slipway.engines.tensorrt_profile import TOOL, inspected_layers, profiled_layers, write_times
from slipway.errors import BadInputError, InfrastructureError, UnsupportedError
from slipway.records import Layer, Profile


def open_file(engine: str, module: str, path: Path) -> TensorRtSession:
    """Open a file that ``engine`` built, with the runtime's Python ``module``, on the first GPU.

    Raises:
        BadInputError: the file is not one of this engine's.
        UnsupportedError: this host has no GPU that it was built for, or another version of the runtime.
    """
    label, plan = read_file(engine, path)
    _require_gpu(engine, label)
    runtime = importlib.import_module(module)
    if runtime.__version__ != label.version and not label.version_compatible:
        raise _elsewhere(engine, f"its file was built by version {label.version}, and {runtime.__version__} is here")
    log = silent_log(runtime)
    loader = runtime.Runtime(log)
    if label.dla_core is not None:
        loader.DLA_core = label.dla_core
    if label.version_compatible:
        loader.engine_host_code_allowed = True  # such a plan carries its own small runtime; its sha256 was checked
    loaded = loader.deserialize_cuda_engine(plan)
    if loaded is None:
        raise bad_file(engine, path, f"a plan that its runtime takes ({log.first_error()})")
    return TensorRtSession(runtime, (log, loader), loaded, label, gpu_memory())


def profile_file(
    engine: str, module: str, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path
) -> Profile:
    """What a file that ``engine`` built executes, told by the runtime's own profiler and inspector.

    Raises:
        BadInputError: the file is not one of this engine's.
        UnsupportedError: this host has no GPU that it was built for, or another version of the runtime.
    """
    with open_file(engine, module, path) as session:
        for _ in range(WARM_UP_CALLS):
            session.infer(arrays)
        times = [session.times_us(arrays) for _ in range(calls)]
        layers = session.layers()
    write_times(trace, layers, times)
    measured = profiled_layers(layers, times)
    return Profile(tool=TOOL, layers=measured, calls=calls, batch=batch_of(arrays), threads=options.threads)


class TensorRtSession(CheckedSession):
    """One execution context with reused buffers on the GPU; ``owners`` are what the engine's memory depends on."""

    def __init__(self, runtime: Any, owners: tuple[Any, ...], engine: Any, label: Label, memory: Memory) -> None:
        super().__init__(label.signature)
        self._runtime = runtime
        self._owners = owners
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise InfrastructureError("the GPU has no memory for this engine; free some, or set a smaller max_batch")
        self._memory = memory
        self._max_batch = label.max_batch
        self._batched = all(spec.shape[:1] == (-1,) for spec in (*label.signature.inputs, *label.signature.outputs))

    def executed_precision(self) -> dict[str, int]:
        """Layers of the plan that multiply and accumulate, counted by the precision they run in."""
        return count_precisions(self.layers())

    def layers(self) -> tuple[Layer, ...]:
        """Layers of the plan in the order of their execution, without times."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context  # shapes are known there
        return inspected_layers(inspector.get_engine_information(self._runtime.LayerInformationFormat.JSON))

    def times_us(self, arrays: Arrays) -> dict[str, float]:
        """One call's time in us of every layer."""
        profiler = _profiler_class(self._runtime)()
        self._context.profiler = profiler
        try:
            self.infer(arrays)
        finally:
            self._context.profiler = None
        return dict(profiler.us)

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        size, largest = batch_of(arrays), self._max_batch
        if not self._batched or size <= largest:
            return self._call(arrays)
        parts = [
            self._call({name: array[start : start + largest] for name, array in arrays.items()})
            for start in range(0, size, largest)
        ]
        return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs}

    def _call(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        context, memory = self._context, self._memory
        for name, array in arrays.items():
            if not context.set_input_shape(name, array.shape):
                least, _, largest = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))
                raise BadInputError(
                    f"the model takes {name} from {list(least)} to {list(largest)}, but was given {list(array.shape)}; "
                    "build it with a wider range in the settings max_batch or dimensions"
                )
            context.set_tensor_address(name, memory.upload(name, array))
        answers = {spec.name: self._room_for(spec.name, spec.dtype) for spec in self.outputs}
        for name, answer in answers.items():
            context.set_tensor_address(name, memory.reserve(name, answer.nbytes))
        if not context.execute_async_v3(memory.stream):
            raise InfrastructureError("the GPU did not take the call; look at the driver's log (dmesg)")
        memory.download(answers)
        return answers

    def _room_for(self, name: str, dtype: str) -> npt.NDArray[np.generic]:
        shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            raise UnsupportedError(f"the size of {name} depends on the values of the inputs; use another engine")
        return np.empty(shape, dtype)

    def _close(self) -> None:
        del self._context, self._engine, self._owners, self._memory


def _require_gpu(engine: str, label: Label) -> None:
    try:
        gpu = first_gpu()
    except UnsupportedError as error:
        raise _elsewhere(engine, f"{error}; {_wanted(label)}") from error
    if gpu.capability not in label.capabilities:
        raise _elsewhere(engine, f"{gpu.name} has compute capability {gpu.capability}; {_wanted(label)}")


def _wanted(label: Label) -> str:
    return f"its file wants an NVIDIA GPU of compute capability {' or '.join(label.capabilities)}"


def _elsewhere(engine: str, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"engine {engine} cannot run here: {reason}; attach a Prefect worker on such a host (targets.T.work_pool), "
        "or build the candidate again for this one"
    )


def _profiler_class(runtime: Any) -> Any:
    class Profiler(runtime.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            runtime.IProfiler.__init__(self)
            self.us: defaultdict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by the runtime for every layer of a call."""
            self.us[layer_name] += ms * 1e3

    return Profiler
