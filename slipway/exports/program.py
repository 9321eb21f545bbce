"""Export to a ``torch.export`` program: the form that eager PyTorch and Inductor load."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.errors import BadInputError, RejectedError, first_line
from slipway.exports.calling import TRACED_BATCH, Arrays, at_batch, exportable, tensors
from slipway.exports.scripted import save_scripted
from slipway.records import Signature

if TYPE_CHECKING:
    import torch


def export_program(module: torch.nn.Module, example: Arrays, signature: Signature, out: Path) -> str:
    """Write the module to ``out`` with ``torch.export.save`` and return how, in words.

    The archive carries the signature as the extra file ``signature.json``. A ScriptModule has no program: it is saved
    as TorchScript instead.

    Raises:
        BadInputError: the model does not run on the example, or a dimension is fixed that the signature calls dynamic.
        RejectedError: ``torch.export`` cannot capture the model.
    """
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        return save_scripted(module, signature, out)
    program = capture(module, example, signature)
    with out.open("wb") as file:  # given a path, torch would write the file's name into its bytes
        torch.export.save(program, file, extra_files={"signature.json": signature.model_dump_json()})
    return f"torch.export, torch {torch.__version__}"


def capture(module: torch.nn.Module, example: Arrays, signature: Signature) -> torch.export.ExportedProgram:
    """The module as a program whose dimensions are dynamic exactly where the signature says -1.

    Raises:
        BadInputError: the model does not run on the example, or a dimension is fixed that the signature calls dynamic.
        RejectedError: ``torch.export`` cannot capture the model.
    """
    import torch

    module = exportable(module, example, signature)
    inputs = tensors(at_batch(example, signature, TRACED_BATCH), signature)
    dynamic = tuple(
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(spec.shape) if size == -1} for spec in signature.inputs
    )
    # *args of a wrapping forward are one argument to torch.export, plain parameters are several.
    shapes = (dynamic,) if _takes_varargs(module) else dynamic
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # nn.LSTM and nn.GRU reassign their own list of weights in forward; the export keeps the parameters.
            warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights", UserWarning)
            program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    except Exception as error:
        raise RejectedError(f"the model cannot be exported with torch.export: {first_line(error)}") from error
    _require_dynamic(program, signature)
    for graph_module in program.graph_module.modules():
        for node in graph_module.graph.nodes if isinstance(graph_module, torch.fx.GraphModule) else ():
            for provenance in ("stack_trace", "from_node"):  # the machine's paths; addresses, new in each process
                node.meta.pop(provenance, None)
    return program


def _takes_varargs(module: torch.nn.Module) -> bool:
    import inspect

    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds


def _require_dynamic(program: torch.export.ExportedProgram, signature: Signature) -> None:
    from torch.fx.experimental.symbolic_shapes import is_concrete_int

    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    for spec, name in zip(signature.inputs, program.graph_signature.user_inputs, strict=True):
        for axis, size in enumerate(spec.shape):
            found = shapes[str(name)][axis]
            if size == -1 and is_concrete_int(found):  # a symbol may stand for a constant, too
                remedy = "an input_example of batch >= 2" if axis == 0 else f"a signature that says {found} there"
                raise BadInputError(
                    f"input {spec.name!r} is fixed to size {found} in dimension {axis}, though the signature says "
                    f"dynamic (-1); log it with {remedy}"
                )
