"""From a program of torch.export to a library of TVM's: imported, laid out, fused, scheduled, compiled and linked."""

from __future__ import annotations

import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.decisions.precision import OF_ACTIVATIONS
from slipway.engines.checks import compiler_command
from slipway.engines.profiling import is_precision, precision_of
from slipway.engines.tvm_schedule import multiplies, schedule
from slipway.engines.tvm_tuning import Tuned
from slipway.errors import UnsupportedError
from slipway.records import Layer

if TYPE_CHECKING:
    import torch
    import tvm

LIBRARY = "model.so"
LINKERS = ("g++", "gcc", "clang")
MAIN = "main"
# Channels last, so that vectors are filled with channels, of which there are more than pixels in deep layers.
LAYOUTS = {"relax.nn.conv2d": ["NHWC", "HWIO"]}
_UNSUPPORTED = re.compile(r"Unsupported function types? \[(.*)\]|not supported for frontend ONNX: (.*)")


def import_program(engine: str, program: torch.export.ExportedProgram) -> tvm.IRModule:
    """The program as TVM's graph, its operators still whole; the sizes that vary stay symbols.

    Raises:
        UnsupportedError: TVM has no import for an operator, which is named.
    """
    from tvm.relax.frontend.torch import from_exported_program

    with warnings.catch_warnings():
        # PyTorch, of a class of its own that it copies with every program.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        program = program.run_decompositions()
    _bound_clamps(program.graph)
    try:
        module = from_exported_program(program, run_ep_decomposition=False)
    except Exception as error:  # its importer raises whatever an operator's arguments make it raise
        said = " ".join(str(error).split())
        raise UnsupportedError(f"engine {engine} cannot import this model: {_named(said)}") from error
    module = _guard(module)
    # The importer's lowest batch is that of the trace, which need not be the lowest that is asked for.
    module[MAIN] = module[MAIN].without_attr("tir_var_lower_bound")
    return module


def _named(said: str) -> str:
    found = _UNSUPPORTED.search(said)
    return f"no operator of TVM's for {found[1] or found[2]}" if found else said[:160]


def _guard(module: tvm.IRModule) -> tvm.IRModule:
    """Let an index beyond its table give NaN, or in a table of integers the nearest, instead of reading beyond it."""
    from tvm import relax
    from tvm.ir import Op
    from tvm.relax.expr_functor import PyExprMutator, mutator

    take = Op.get("relax.take")

    @mutator
    class Guard(PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = super().visit_call_(call)
            if call.op != take:
                return call
            mode = "nan" if "float" in str(call.args[0].ty.dtype) else "clip"
            return relax.op.take(*call.args, axis=call.attrs.axis, mode=mode)

    guard = Guard(module)
    for variable, function in module.functions_items():
        guard.builder_.update_func(variable, guard.visit_expr(function))
    return guard.builder_.get()


def _bound_clamps(graph: torch.fx.Graph) -> None:
    """Give clamps of integers both bounds: TVM takes a missing one for infinity, which is no integer."""
    import torch

    for node in graph.nodes:
        if node.op != "call_function" or node.target is not torch.ops.aten.clamp.default:
            continue
        dtype = node.meta["val"].dtype
        if not dtype.is_floating_point:
            low, high = (*node.args[1:], None, None)[:2]
            limits = torch.iinfo(torch.int32)  # TVM takes the bounds through floats, which hold no larger int64
            node.args = (node.args[0], limits.min if low is None else low, limits.max if high is None else high)


def fuse(module: tvm.IRModule, target: tvm.target.Target) -> tuple[tvm.IRModule, bool]:
    """The graph as calls of fused kernels without a schedule, and whether its convolutions have their channels last."""
    import tvm
    from tvm.relax import transform
    from tvm.relax.backend.cpu_generic import library_dispatch_passes

    first = [transform.DecomposeOpsForInference(), transform.CanonicalizeBindings()]
    passes = [
        transform.Normalize(),
        transform.FoldConstant(),
        *library_dispatch_passes(target),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    with target:
        module = tvm.transform.Sequential(first)(module)
        module, channels_last = _channels_last(module)
        return tvm.transform.Sequential(passes)(module), channels_last


def _channels_last(module: tvm.IRModule) -> tuple[tvm.IRModule, bool]:
    from tvm.error import InternalError
    from tvm.relax import transform

    try:
        return transform.ConvertLayout(LAYOUTS)(module), True
    except InternalError:  # 0.27 ends with std::bad_alloc on some graphs whose tensors change their rank
        return module, False


def compile_fused(module: tvm.IRModule, target: tvm.target.Target, tuned: Tuned) -> tvm.runtime.Executable:
    """Machine code of the fused kernels and the code of the virtual machine that calls them."""
    import tvm
    from tvm.relax.backend.cpu_generic.pipeline import dataflow_lower_passes, finalize_passes

    with target:
        module = schedule(module, target, tuned.tile)
        module = tvm.transform.Sequential([*dataflow_lower_passes(target), *finalize_passes(target)])(module)
        return tvm.compile(module, target=target, relax_pipeline=None)


def specialize(module: tvm.IRModule, sizes: Iterable[int]) -> tuple[tvm.IRModule, dict[int, str]]:
    """``module`` with a function more for each batch size in ``sizes``, and the names of those; none if others vary."""
    from tvm.ir import IRModule
    from tvm.relax.analysis import defined_symbolic_vars
    from tvm.relax.transform import BindSymbolicVars

    functions, names = {MAIN: module[MAIN]}, {}
    if len(symbols := list(defined_symbolic_vars(module[MAIN]))) == 1:
        for size in sizes:
            names[size] = f"{MAIN}_{size}"
            bound = BindSymbolicVars({symbols[0]: size}, MAIN)(module)[MAIN]
            functions[names[size]] = bound.with_attr("global_symbol", names[size])
    return IRModule(functions), names


def layers(module: tvm.IRModule) -> dict[str, tuple[Layer, ...]]:
    """Kernels that each function of a fused ``module`` calls, in order, without times."""
    from tvm.relax import Function

    found = {}
    for variable, function in module.functions_items():
        if isinstance(function, Function):
            calls = enumerate(_calls(function))
            found[str(variable.name_hint)] = tuple(
                _layer(f"{call.args[0].name_hint} #{place}", module[call.args[0]], call.args[1].fields)
                for place, call in calls
            )
    return found


def _calls(function: Any) -> Iterable[Any]:
    from tvm.ir import Op

    call_tir = Op.get("relax.call_tir")
    for block in function.body.blocks:
        for binding in block.bindings:
            if getattr(binding.value, "op", None) == call_tir:
                yield binding.value


def _layer(name: str, kernel: tvm.tirx.PrimFunc, operands: Sequence[Any]) -> Layer:
    from tvm.ir import GenericConst
    from tvm.s_tir import Schedule

    plan = Schedule(kernel)
    blocks = [plan.get(block) for block in plan.get_child_blocks(plan.get_sblock("root"))]
    products = [block for block in blocks if multiplies(block)]
    dtypes = [str(region.source.dtype) for block in products or blocks for region in block.reads]
    kind = "_".join(dict.fromkeys(re.sub(r"\d+$", "", block.name_hint).removeprefix("T_") for block in blocks))
    weighted = any(isinstance(operand, GenericConst) and operand.ty.ndim > 1 for operand in operands)
    precision = next((precision_of(_spelled(one)) for one in dtypes if is_precision(_spelled(one))), "none")
    return Layer(
        name=name,
        kind=kind if weighted or not products else kind + OF_ACTIVATIONS,
        precision=precision,
        multiplies=bool(products),
        time_us=None,
    )


def _spelled(dtype: str) -> str:
    return {"float32": "float", "float64": "double"}.get(dtype, dtype)


def link(engine: str, executable: tvm.runtime.Executable, linker: str | None) -> bytes:
    """The executable as one shared library, whose bytes depend on nothing else."""

    def linked(output: str, objects: Sequence[str], **_: Any) -> None:
        program, *given = (linker or compiler_command(*LINKERS)).split()
        no_id = "--build-id=none" if program.endswith("ld") else "-Wl,--build-id=none"
        # Without symbols and debug sections, which name temporary files.
        command = [program, *given, "-shared", "-s", no_id, "-o", output, *objects]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            said = " ".join((ran.stderr or ran.stdout).split())[:200]
            raise UnsupportedError(f"engine {engine} cannot link for this target with {program}: {said}")

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / LIBRARY
        executable.export_library(str(out), fcompile=linked, workspace_dir=folder)
        return out.read_bytes()
