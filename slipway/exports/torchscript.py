"""Export to TorchScript: the form that loads with ``torch.jit.load`` alone.

The exported graph is scripted, not traced: a trace turns every size that the graph reads into a constant, and a traced
LSTM whose initial state has the wrong batch corrupts memory instead of failing.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import RejectedError, first_line
from slipway.exports.calling import OTHER_BATCH, Arrays, at_batch, exportable, leaves_in_order, run
from slipway.exports.program import capture
from slipway.exports.scripted import DEPRECATED, save_scripted
from slipway.records import Signature

if TYPE_CHECKING:
    import torch

MAX_RELATIVE_DIFFERENCE = 1e-3  # of the largest output; the script repeats the module's own operators


def export_torchscript(module: torch.nn.Module, example: Arrays, signature: Signature, out: Path) -> str:
    """Script the module, compare the script with it at another batch, write it to ``out`` and return how, in words.

    A ScriptModule passes through as it is. The archive carries the signature as the extra file ``signature.json``.

    Raises:
        BadInputError: the model does not run on the example, or not on another batch although the signature says -1.
        RejectedError: the model cannot be scripted, or its script answers differently.
    """
    import torch

    exportable(module, example, signature)
    if isinstance(module, torch.jit.ScriptModule):
        return save_scripted(module, signature, out)
    graph = module if isinstance(module, torch.fx.GraphModule) else capture(module, example, signature).module()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", DEPRECATED, DeprecationWarning)
            # Said of the constructor of torch's own GraphModule, which is not scripted.
            warnings.filterwarnings("ignore", "The TorchScript type system doesn't support instance-level", UserWarning)
            script = torch.jit.script(_scriptable(graph, signature))
    except Exception as error:
        raise RejectedError(f"the model cannot be made TorchScript: {first_line(error)}") from error
    _require_same_answers(script, module, at_batch(example, signature, OTHER_BATCH), signature)
    save_scripted(script, signature, out)
    return f"torch.jit.script of the exported graph, torch {torch.__version__}"


def _scriptable(graph_module: torch.fx.GraphModule, signature: Signature) -> torch.fx.GraphModule:
    """The graph over the same weights in the Python that TorchScript compiles, outputs in the signature's order."""
    import torch

    # TorchScript has no symbolic numbers: its integers are dynamic anyway.
    plain: dict[Any, Any] = {
        torch.ops.aten.sym_size.int: torch.ops.aten.size,
        torch.sym_float: float,
        torch.sym_int: int,
        torch.sym_max: max,
        torch.sym_min: min,
    }
    graph = torch.fx.Graph()
    answer: Any = graph.graph_copy(graph_module.graph, {})
    leaves = leaves_in_order(answer, graph_module, signature)
    graph.output(leaves[0] if len(leaves) == 1 else tuple(leaves))
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
        elif node.op == "call_function":
            node.target = plain.get(node.target, getattr(node.target, "overloadpacket", node.target))
    return torch.fx.GraphModule(graph_module, graph)


def _require_same_answers(
    script: torch.nn.Module, module: torch.nn.Module, arrays: Arrays, signature: Signature
) -> None:
    expected = run(module, arrays, signature)
    try:
        found = run(script, arrays, signature)
    except Exception as error:
        raise RejectedError(f"the model's TorchScript does not run: {first_line(error)}") from error
    for spec, one, other in zip(signature.outputs, expected, found, strict=True):
        difference = (one.double() - other.double()).abs().max().item() if one.shape == other.shape else float("inf")
        limit = MAX_RELATIVE_DIFFERENCE * max(one.double().abs().max().item(), 1e-6)
        if not difference <= limit:
            raise RejectedError(
                f"output {spec.name!r} of the model's TorchScript differs by {difference:.3g} (> {limit:.3g}) "
                f"on a batch of {OTHER_BATCH}"
            )
