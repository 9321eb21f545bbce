"""The bf16 and fp16 variants in PyTorch: weights and compute in 16 bits, inputs and outputs as the signature says."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway.errors import RejectedError, UnsupportedError, first_line
from slipway.records import Signature

if TYPE_CHECKING:
    import torch

Reduced: TypeAlias = Literal["bf16", "fp16"]
Arrays: TypeAlias = Mapping[str, npt.NDArray[np.generic]]


def to_reduced(module: torch.nn.Module, example: Arrays, signature: Signature, variant: Reduced) -> torch.nn.Module:
    """A 16-bit copy of an exported GraphModule or a ScriptModule, of the same kind; the given module stays as it is.

    Float inputs are cast in and float outputs cast back. Float32 that the graph itself names (casts, new tensors)
    becomes 16 bits too.

    Raises:
        UnsupportedError: the module is of another kind, or its 16-bit form does not run on the example.
        RejectedError: it runs, and overflows: fp16 ends at 65504.
    """
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[variant]
    inputs = tuple(torch.from_numpy(np.array(example[spec.name], order="C")) for spec in signature.inputs)
    try:
        with torch.no_grad():
            converted = (
                _script(module, inputs, signature, dtype) if _is_script(module) else _graph(module, variant, dtype)
            )
            answers = converted(*inputs)
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(f"{variant}: the model does not run in {_name(dtype)}: {first_line(error)}") from error
    for answer in torch.utils._pytree.tree_leaves(answers):
        if not answer.isfinite().all():
            raise RejectedError(
                f"{variant}: the model's answers overflow in {_name(dtype)}; use bf16, which has fp32's range"
            )
    return converted


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_script(module: torch.nn.Module) -> bool:
    import torch

    return isinstance(module, torch.jit.ScriptModule)


def _graph(module: torch.nn.Module, variant: str, dtype: torch.dtype) -> torch.fx.GraphModule:
    import torch

    if not isinstance(module, torch.fx.GraphModule):
        raise UnsupportedError(
            f"{variant} is made from an exported program or TorchScript, not from {type(module).__name__}"
        )
    with warnings.catch_warnings():
        # torch 2.13 copies its own pytree specs in a way it deprecates itself.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        converted = copy.deepcopy(module).to(dtype)
    graph = converted.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)  # asserts the old dtype
        elif node.op == "call_function":
            _retype(node, dtype)
    _cast_ends(graph, dtype)
    converted.recompile()
    return converted


def _retype(node: torch.fx.Node, dtype: torch.dtype) -> None:
    """Make float32 ``dtype`` where a node names it, or makes a new tensor in the default dtype."""
    import torch

    def narrowed(argument: Any) -> Any:
        return dtype if argument is torch.float32 else argument

    node.args = torch.fx.node.map_aggregate(node.args, narrowed)
    node.kwargs = torch.fx.node.map_aggregate(node.kwargs, narrowed)
    if isinstance(node.target, torch._ops.OpOverload) and getattr(node.meta.get("val"), "dtype", None) is torch.float32:
        arguments = node.target._schema.arguments
        makes_tensor = not any("Tensor" in str(argument.type) for argument in arguments)
        if makes_tensor and any(argument.name == "dtype" for argument in arguments):
            node.kwargs = {**node.kwargs, "dtype": node.kwargs.get("dtype") or dtype}


def _cast_ends(graph: torch.fx.Graph, dtype: torch.dtype) -> None:
    import torch

    cast = torch.ops.aten.to.dtype
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node in placeholders:
        if node.meta["val"].is_floating_point():
            with graph.inserting_after(placeholders[-1]):
                narrow = graph.call_function(cast, (node, dtype))
            # The guards look at the model's own inputs.
            node.replace_all_uses_with(narrow, lambda user, own=narrow: user.op != "call_module" and user is not own)
    output = graph.output_node()

    def widened(node: torch.fx.Node) -> torch.fx.Node:
        own = node.meta["val"].dtype
        return graph.call_function(cast, (node, own)) if own.is_floating_point else node

    with graph.inserting_before(output):
        output.args = torch.fx.node.map_arg(output.args, widened)


def _script(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], signature: Signature, dtype: torch.dtype
) -> torch.jit.ScriptModule:
    import torch

    class Narrowed(torch.nn.Module):
        """Casts in, calls, casts out; answers in the signature's order."""

        def __init__(self) -> None:
            super().__init__()
            self.module = copy.deepcopy(module).to(dtype)

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            answer = self.module(*(_as(dtype, one) for one in inputs))
            if isinstance(answer, Mapping):
                answer = tuple(answer[spec.name] for spec in signature.outputs)
            if torch.is_tensor(answer):
                answer = (answer,)
            specs = signature.outputs
            wide = tuple(_as(getattr(torch, spec.dtype), one) for spec, one in zip(specs, answer, strict=True))
            return wide[0] if len(wide) == 1 else wide

    with warnings.catch_warnings():
        # TorchScript still runs in torch 2.13; torch calls it deprecated at each use.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        traced: torch.jit.ScriptModule = torch.jit.trace(Narrowed(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
        return traced


def _as(dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
