"""From a torch.export program to a ``.pte``: what XNNPACK's kernels take, and what is left to portable ones."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway.engines.executorch_runtime import operator_names
from slipway.errors import BadInputError, UnsupportedError, first_line
from slipway.records import Signature, TensorSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Lowered:
    """A program's bytes; ``delegated`` of its ``operators`` run in XNNPACK."""

    program: bytes
    delegated: int
    operators: int


def lower(
    program: torch.export.ExportedProgram, signature: Signature, batch: int, longest: int | None, engine: str
) -> Lowered:
    """Lower a program for batches of up to ``batch``, any other dynamic size up to ``longest``.

    The runtime's memory is planned for these sizes; that of XNNPACK's layers follows each call's own.

    Raises:
        BadInputError: the program takes or answers other than the signature says.
        UnsupportedError: a dynamic size has no bound, or an operator no kernel.
    """
    bounded = _bounded(program, signature, batch, longest, engine)
    with _quietly():
        import executorch.kernels.quantized  # noqa: F401 - declares to PyTorch what quantizes outside XNNPACK
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            edge = to_edge_transform_and_lower(bounded, partitioner=[XnnpackPartitioner()])
            delegated, others = _count(edge.exported_program().graph_module)
            made = edge.to_executorch()
        except Exception as error:
            raise UnsupportedError(f"engine {engine} cannot execute this model: {first_line(error)}") from error
    (plan,) = made.executorch_program.execution_plan
    called = {f"{one.name}.{one.overload}" if one.overload else one.name for one in plan.operators}
    if missing := sorted(called - operator_names()):
        raise UnsupportedError(
            f"engine {engine} cannot execute this model: neither XNNPACK nor a portable kernel runs "
            f"{', '.join(missing)}; use another engine"
        )
    return Lowered(bytes(made.buffer), delegated, delegated + others)


def _bounded(
    program: torch.export.ExportedProgram, signature: Signature, batch: int, longest: int | None, engine: str
) -> torch.export.ExportedProgram:
    """The program exported again, with upper bounds, at these bounds.

    Exported at a small batch, PyTorch's convolutions, which ask whether it is below 16, would make 15 the bound.
    """
    import torch

    found = len(program.graph_signature.user_inputs), len(program.graph_signature.user_outputs)
    wanted = len(signature.inputs), len(signature.outputs)
    if found != wanted:
        raise BadInputError(
            f"the model's signature has {wanted[0]} inputs and {wanted[1]} outputs, its program {found[0]} and "
            f"{found[1]}; export the model again with the signature's names"
        )
    inputs: list[torch.Tensor] = []
    dynamic: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for spec in signature.inputs:
        bounds = {axis: _bound(spec, axis, batch, longest, engine) for axis, size in enumerate(spec.shape) if size < 0}
        shape = [bounds.get(axis, size) for axis, size in enumerate(spec.shape)]
        inputs.append(torch.zeros(shape, dtype=getattr(torch, spec.dtype)))
        dynamic[inputs[-1]] = {axis: torch.export.Dim.AUTO(max=bound) for axis, bound in bounds.items()}
    module = program.module(check_guards=False)  # they ask for the sizes of the first export
    try:
        with torch.no_grad(), _quietly():
            return torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic)
    except Exception as error:
        raise UnsupportedError(
            f"engine {engine} cannot execute this model: with its sizes bounded, PyTorch cannot export it again: "
            f"{first_line(error)}"
        ) from error


def _bound(spec: TensorSpec, axis: int, batch: int, longest: int | None, engine: str) -> int:
    if axis == 0:
        return batch
    if longest is None:
        raise UnsupportedError(
            f"engine {engine} plans its memory ahead, and input {spec.name!r} is of any size in dimension {axis}; "
            f"set targets.TARGET.settings.{engine}.longest to the greatest that comes"
        )
    return longest


def _count(graph_module: torch.fx.GraphModule) -> tuple[int, int]:
    """How many operators XNNPACK takes, and how many not; arithmetic of sizes is none."""
    import torch

    def operators(module: torch.fx.GraphModule) -> int:
        calls = (node for node in module.graph.nodes if node.op == "call_function" and _name(node.target) != "getitem")
        return sum(not isinstance(node.meta.get("val"), int | torch.SymInt) for node in calls)

    calls = [
        node
        for node in graph_module.graph.nodes
        if node.op == "call_function" and _name(node.target) == "executorch_call_delegate"
    ]
    lowered = [getattr(graph_module, node.args[0].target) for node in calls]
    taken = sum(operators(one.original_module.graph_module) for one in lowered)
    return taken, operators(graph_module) - len(calls)


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to oneself what executorch and torchao tell of themselves while they are imported and lower.

    They warn of each other's deprecated calls and of CUDA libraries that are not there, and would give the process's
    root logger a handler.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    before = root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
