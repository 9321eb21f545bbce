"""Engine ``openvino``: Intel's runtime on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import bad_file, installed, require_names
from slipway.engines.openvino_profile import TOOL, profiled_layers, write_counters
from slipway.engines.openvino_session import OpenVinoSession
from slipway.engines.profiling import WARM_UP_CALLS, batch_of
from slipway.errors import UnsupportedError
from slipway.records import Form, Option, Profile, Signature, TensorSpec

if TYPE_CHECKING:
    import openvino

NAME = "openvino"
MODEL = "model.xml"
PRECISION_KEY = ["slipway", "inference_precision"]
BATCH_KEY = ["slipway", "first_batch"]
INFERENCE_PRECISIONS = {"bf16": "bf16", "fp16": "f16"}
# What OpenVINO would do without being asked, on a CPU that lacks the instructions.
INSTEAD = {
    "bf16": "bfloat16 instructions (AVX512-BF16 or AMX), and would emulate them slower than fp32",
    "f16": "float16 instructions (AVX512-FP16 or AMX-FP16), and would compute in bfloat16",
}


class OpenVinoEngine:
    """Writes a directory with OpenVINO's IR, which carries the inference precision and the batch it is meant for.

    Compiled for one batch size instead of any, a call took 3% less CPU time in ResNet-18 and ResNet-50 at 224x224 in
    int8, and 10% less in a ResNet-56 at 32x32 in fp32: no shapes are inferred anew in each call.
    """

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.ONNX
    suffix: ClassVar[str] = ""
    refused: ClassVar[Mapping[str, str]] = {}
    settings: ClassVar[type[Settings]] = Settings
    shares_weights: ClassVar[Literal[True]] = True

    def availability(self) -> Availability:
        """Whether OpenVINO is installed."""
        return installed(NAME, "openvino", NAME)

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Convert ONNX to ``out/model.xml`` and ``out/model.bin``; the same source gives the same bytes.

        Raises:
            BadInputError: the source is not ONNX, or its names are not the signature's.
            UnsupportedError: an operator is unknown to OpenVINO or answered wrongly by it, or this CPU does not
                compute in the variant's precision.
        """
        _decline_telemetry()
        import openvino

        core = openvino.Core()
        precision = INFERENCE_PRECISIONS.get(options.variant, "f32")
        if reason := INSTEAD.get(precision) if not _computes_in(core, precision) else None:
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: this CPU has no {reason}")
        model = _read(core, source, "an ONNX model")
        _refuse_dynamic_ifs(model)
        _keep_only_signature_names(model, source, options.signature)
        _name_by_position(model)
        model.set_rt_info(precision, PRECISION_KEY)
        batch = options.batch[0] if _takes_batch(model, options.batch[0]) else None
        if batch is not None:
            model.set_rt_info(str(batch), BATCH_KEY)
        out.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, out / MODEL, compress_to_fp16=False)
        return {"inference_precision": precision, **({"first_batch": batch} if batch is not None else {})}

    def load(self, path: Path, options: RunOptions) -> OpenVinoSession:
        """Compile an IR that this engine built, for the batch it is meant for; another one is compiled when asked for.

        Two streams of one compiled ResNet-18 answered as often as two compiled models, in a third of the memory;
        AsyncInferQueue in place of requests from threads, and the THROUGHPUT hint, changed the rate by less than 3%.

        Raises:
            BadInputError: the directory is not one of this engine's.
        """
        return self._load(path, options, {})

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What an IR that this engine built executes, told by OpenVINO's execution graph and performance counters.

        Raises:
            BadInputError: the directory is not one of this engine's.
        """
        with self._load(path, options, {"PERF_COUNT": True}) as session:
            for _ in range(WARM_UP_CALLS):
                session.infer(arrays)
            counters = [session.counters(arrays) for _ in range(calls)]
            graph = session.layers(arrays)
        write_counters(trace, graph, counters)
        layers = profiled_layers(graph, counters)
        return Profile(tool=TOOL, layers=layers, calls=calls, batch=batch_of(arrays), threads=options.threads)

    def _load(self, path: Path, options: RunOptions, further: Mapping[str, bool]) -> OpenVinoSession:
        _decline_telemetry()
        import openvino

        core = openvino.Core()
        model = _read(core, path / MODEL, "an OpenVINO IR")
        if not model.has_rt_info(PRECISION_KEY):
            raise bad_file(NAME, path, "an OpenVINO IR that states its inference precision")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": options.streams,
            "INFERENCE_NUM_THREADS": options.threads * options.streams,
            "INFERENCE_PRECISION_HINT": model.get_rt_info(PRECISION_KEY).value,
            "ENABLE_CPU_PINNING": False,  # it would stay on the first CPUs, wherever its process is moved to
            **further,
        }
        signature = Signature(inputs=_specs(model.inputs), outputs=_specs(model.outputs))
        batch = int(model.get_rt_info(BATCH_KEY).value) if model.has_rt_info(BATCH_KEY) else None

        def compiled(batch: int | None) -> openvino.CompiledModel:
            return core.compile_model(model if batch is None else _at_batch(model, batch), "CPU", settings)

        return OpenVinoSession(compiled, signature, batch, options.streams)


def _decline_telemetry() -> None:
    """Let OpenVINO take the stub that it has for an absent telemetry package: its import would report to its maker."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is Python's mark of an absent module


def _computes_in(core: openvino.Core, precision: str) -> bool:
    capability = {"bf16": "BF16", "f16": "FP16"}.get(precision)
    return capability is None or capability in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _read(core: openvino.Core, path: Path, wanted: str) -> openvino.Model:
    if not path.is_file():
        raise bad_file(NAME, path, wanted)
    try:
        return core.read_model(path)
    except RuntimeError as error:
        if "OpConversionFailure" in str(error):
            reason = str(error).strip().splitlines()[-1]
            raise UnsupportedError(f"engine {NAME} cannot execute this model: {reason}") from error
        raise bad_file(NAME, path, wanted) from error


def _refuse_dynamic_ifs(model: openvino.Model) -> None:
    """Refuse an If whose result has a dynamic shape, in the model itself or in the body of another operation.

    OpenVINO 2026.4.1's CPU plugin lays out what follows such an If before it knows the shape, and answers with memory
    that nothing wrote.
    """
    bodies = [model]
    while bodies:
        for operation in bodies.pop().get_ops():
            kind = operation.get_type_name()
            if kind == "If" and any(port.get_partial_shape().is_dynamic for port in operation.outputs()):
                raise UnsupportedError(
                    f"engine {NAME} cannot execute this model: behind an If whose result has a dynamic shape "
                    f"({operation.get_friendly_name()}) its CPU plugin answers wrongly; use onnxruntime or torchscript"
                )
            if kind == "If":
                bodies += [operation.get_function(branch) for branch in (0, 1)]
            elif kind in {"Loop", "TensorIterator"}:
                bodies.append(operation.get_function())


def _keep_only_signature_names(model: openvino.Model, source: Path, signature: Signature) -> None:
    """A tensor may have several names here (one per fused ONNX node); keep the one that the signature knows."""
    for kind, ports, specs in (
        ("inputs", model.inputs, signature.inputs),
        ("outputs", model.outputs, signature.outputs),
    ):
        wanted = {spec.name for spec in specs}
        found = [(port.get_names() & wanted or port.get_names()) for port in ports]
        require_names(source, kind, (min(names) for names in found), specs)
        for port, spec in zip(ports, specs, strict=True):
            port.set_names({spec.name})


def _takes_batch(model: openvino.Model, batch: int) -> bool:
    """Whether the batch size is the caller's choice and the model's shapes follow from it."""
    if not any(port.get_partial_shape()[0].is_dynamic for port in model.inputs if len(port.get_partial_shape())):
        return False
    try:
        _at_batch(model, batch)
    except RuntimeError:  # an operation does not know its shape at this batch; for any batch it finds out as it runs
        return False
    return True


def _at_batch(model: openvino.Model, batch: int) -> openvino.Model:
    """A copy with dimension 0 of every input fixed, where it is dynamic; the weights are shared with the model."""
    fixed = model.clone()
    shapes = {}
    for port in fixed.inputs:
        shape = port.get_partial_shape()
        if len(shape) and shape[0].is_dynamic:
            shape[0] = batch
        shapes[port] = shape
    fixed.reshape(shapes)
    return fixed


def _name_by_position(model: openvino.Model) -> None:
    """Operations without a name get one from a counter of the process, which would make the bytes differ."""
    for position, operation in enumerate(model.get_ordered_ops()):
        if operation.get_friendly_name() == operation.get_name():
            operation.set_friendly_name(f"{operation.get_type_name()}.{position}")


def _specs(ports: list[openvino.Output]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=port.get_any_name(),
            dtype=port.get_element_type().to_dtype().name,
            shape=tuple(-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()),
        )
        for port in ports
    )
