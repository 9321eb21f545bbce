"""Building a plan with NVIDIA's builders: TensorRT and TensorRT-RTX have one Python API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from slipway.engines.base import BuildOptions
from slipway.engines.checks import bad_file, require_names
from slipway.engines.tensorrt_shapes import ShapeSettings, profile_shapes
from slipway.errors import UnsupportedError
from slipway.records import Option, TensorSpec

Configure: TypeAlias = Callable[[Any, Any], dict[str, Option]]

REFUSED = {
    "int8-dynamic": (
        "NVIDIA's ONNX parsers have neither DynamicQuantizeLinear nor MatMulInteger; use int8-static, or onnxruntime"
    )
}


def build_plan(
    engine: str, runtime: Any, source: Path, options: BuildOptions, settings: ShapeSettings, configure: Configure
) -> tuple[Any, dict[str, Option]]:
    """The plan for ``source`` as a buffer, and the options that went into it.

    ``runtime`` is the module ``tensorrt`` or ``tensorrt_rtx``; ``configure`` is given its builder and its builder's
    configuration, sets what the engine alone has, and tells what it set.

    Raises:
        BadInputError: the source is not ONNX, or its names are not the signature's.
        UnsupportedError: an operator is unknown to the runtime, a dynamic dimension has no range, or it cannot build.
    """
    model, told = _in_the_runtimes_types(engine, source, options.variant)
    shapes = profile_shapes(engine, options, settings)
    log = silent_log(runtime)
    builder = runtime.Builder(log)
    # ignored from TensorRT 11 on, where no network is anything else
    network = builder.create_network(1 << int(runtime.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(engine, runtime, log, network, model, source)
    _check_ports(engine, runtime, network, source, options)
    config = builder.create_builder_config()
    config.profiling_verbosity = runtime.ProfilingVerbosity.DETAILED  # layers and precisions are told of this file
    if not settings.tf32:
        config.clear_flag(runtime.BuilderFlag.TF32)
    if shapes:
        profile = builder.create_optimization_profile()
        for name, (least, usual, largest) in shapes.items():
            profile.set_shape(name, least, usual, largest)
        config.add_optimization_profile(profile)
        told |= {f"shapes.{name}": _told(*ends) for name, ends in shapes.items()}
    told |= {"tf32": settings.tf32, **configure(builder, config)}
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnsupportedError(f"engine {engine} cannot build this model: {log.first_error()}")
    return plan, told


def _in_the_runtimes_types(engine: str, source: Path, variant: str) -> tuple[bytes, dict[str, Option]]:
    """The ONNX file as a strongly typed network wants it, which computes in exactly the types that the file names."""
    import onnx

    from slipway.engines.bf16_onnx import lower
    from slipway.engines.qdq_symmetric import is_quantized, respell

    try:
        model = onnx.load(source, load_external_data=variant == "bf16" or variant.startswith("int8"))
    except Exception as error:
        raise bad_file(engine, source, "an ONNX model") from error
    if not model.graph.node:
        raise bad_file(engine, source, "an ONNX model with a graph")
    told: dict[str, Option] = {}
    if variant == "bf16":
        told["kept_in_fp32"] = ", ".join(lower(model)) or "nothing"
    elif is_quantized(model):
        respell(model)
        told["activations"] = "s8 symmetric"
    else:
        return source.read_bytes(), told
    return model.SerializeToString(deterministic=True), told


def _parse(engine: str, runtime: Any, log: Any, network: Any, model: bytes, source: Path) -> None:
    parser = runtime.OnnxParser(network, log)
    if parser.parse(model, str(source)):  # the path is where external data is looked for
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    unknown = {error.node_operator() for error in errors if error.code() == runtime.ErrorCode.UNSUPPORTED_NODE}
    if unknown:
        reason = f"its ONNX parser does not take {', '.join(sorted(unknown))} as this model has it"
    elif errors:
        first, said = errors[0], errors[0].desc().split("\n")[:2]  # what follows is the same, seen from farther out
        reason = f"{first.node_operator()} {first.node_name()!r}: {' '.join(said)}"
    else:
        reason = log.first_error()
    raise UnsupportedError(f"engine {engine} cannot execute this model: {reason}")


def _check_ports(engine: str, runtime: Any, network: Any, source: Path, options: BuildOptions) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    require_names(source, "inputs", (port.name for port in inputs), options.signature.inputs)
    require_names(source, "outputs", (port.name for port in outputs), options.signature.outputs)
    specs: tuple[TensorSpec, ...] = (*options.signature.inputs, *options.signature.outputs)
    for port, spec in zip((*inputs, *outputs), specs, strict=True):
        if port.is_shape_tensor:
            raise UnsupportedError(f"engine {engine} cannot execute this model: {port.name} decides on shapes")
        found = str(port.dtype).rpartition(".")[2]
        if getattr(runtime.DataType, found) != _data_type(runtime, spec.dtype):
            raise UnsupportedError(
                f"engine {engine} cannot execute this model: it takes {port.name} as {found.lower()}, "
                f"the signature says {spec.dtype}"
            )


def _data_type(runtime: Any, dtype: str) -> Any:
    """The runtime's type for numpy's; None where it has none, such as float64."""
    return {"float32": runtime.float32, "float16": runtime.float16}.get(dtype, getattr(runtime, dtype, None))


def _told(least: tuple[int, ...], usual: tuple[int, ...], largest: tuple[int, ...]) -> str:
    return " / ".join("x".join(map(str, shape)) for shape in (least, usual, largest))


def silent_log(runtime: Any) -> Any:
    """A logger for ``runtime`` that keeps errors for the one that is raised, and prints nothing."""

    class Log(runtime.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            runtime.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by the runtime; 2 is its severity WARNING, what is worse is less."""
            if int(severity) < 2:
                self.errors.append(message)

        def first_error(self) -> str:
            """The first error in one line."""
            return " ".join(self.errors[0].split()) if self.errors else "it does not say why"

    return Log()
