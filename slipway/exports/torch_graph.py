"""PyTorch graphs, eager and TorchScript, whose intermediate values can be asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slipway.errors import UnsupportedError
from slipway.exports.calling import Arrays, leaves_in_order, tensors
from slipway.exports.graph import Operator
from slipway.records import Signature

if TYPE_CHECKING:
    import torch


class EagerGraph:
    """A captured graph, run by eager PyTorch; a value is called as its node is, which every exporter keeps to."""

    def __init__(self, module: torch.fx.GraphModule, signature: Signature) -> None:
        self._module, self._signature = module, signature
        answers = leaves_in_order(module.graph.output_node().args[0], module, signature)
        self._outputs = {spec.name: node.name for spec, node in zip(signature.outputs, answers, strict=True)}
        self.operators = tuple(
            Operator(
                node.name,
                str(node.target) if hasattr(node.target, "overloadpacket") else getattr(node.target, "__name__", ""),
                tuple(read.name for read in node.all_input_nodes),
                (node.name, *(name for name, made in self._outputs.items() if made == node.name)),
            )
            for node in module.graph.nodes
            if node.op == "call_function"
        )

    def values(self, arrays: Arrays, names: Sequence[str]) -> Arrays:
        """The values ``names`` on the inputs ``arrays``.

        Raises:
            UnsupportedError: one is no tensor.
        """
        import torch

        wanted = {name: self._outputs.get(name, name) for name in names}
        kept: dict[str, Any] = {}

        class Keeping(torch.fx.Interpreter):
            """Keeps what was asked for, and lets go of everything else."""

            def run_node(self, n: torch.fx.Node) -> Any:
                result = super().run_node(n)
                if n.name in wanted.values() and isinstance(result, torch.Tensor):
                    kept[n.name] = result.numpy()  # not copied: what is changed in place later is so in a script, too
                return result

        with torch.no_grad():
            Keeping(self._module).run(*tensors(arrays, self._signature))
        _require(names, [name for name, node in wanted.items() if node in kept])
        return {name: kept[node] for name, node in wanted.items()}


class ScriptGraph:
    """A TorchScript module made from a captured graph, whose nodes' names its values still carry.

    TorchScript appends a number to each (``relu.1``); where several values share one name, the numbers stay.
    """

    def __init__(self, module: torch.jit.ScriptModule, signature: Signature) -> None:
        self._module, self._signature = module, signature
        made = [value.debugName() for node in module.graph.nodes() for value in node.outputs()]
        shared = Counter(map(_plain, made))
        names = {name: _plain(name) if shared[_plain(name)] == 1 else name for name in made}
        answers = list(module.graph.outputs())
        if answers[0].node().kind() == "prim::TupleConstruct":
            answers = list(answers[0].node().inputs())
        outputs = {spec.name: value.debugName() for spec, value in zip(signature.outputs, answers, strict=True)}
        # By position, for a copy of the graph numbers its values anew.
        self._positions = {names[name]: position for position, name in enumerate(made)}
        self._positions |= {output: made.index(name) for output, name in outputs.items()}
        called = {name: [names[name], *(one for one in outputs if outputs[one] == name)] for name in made}
        self.operators = tuple(
            Operator(
                next((called[value.debugName()][-1] for value in node.outputs()), ""),
                node.kind(),
                tuple(names.get(value.debugName(), value.debugName()) for value in node.inputs()),
                tuple(name for value in node.outputs() for name in called[value.debugName()]),
            )
            for node in module.graph.nodes()
        )

    def values(self, arrays: Arrays, names: Sequence[str]) -> Arrays:
        """The values ``names`` on the inputs ``arrays``.

        Raises:
            UnsupportedError: one is no tensor.
        """
        import torch

        graph = self._module.graph.copy()
        made = [value for node in graph.nodes() for value in node.outputs()]
        wanted = {name: made[self._positions[name]] for name in names}
        tensor = torch._C.TensorType.get()
        _require(names, [name for name, value in wanted.items() if value.type().isSubtypeOf(tensor)])
        for _ in list(graph.outputs()):
            graph.eraseOutput(0)
        for value in wanted.values():
            graph.registerOutput(value)
        run = torch._C._create_function_from_graph("values", graph)
        with torch.no_grad():
            answers = run(self._module._c, *tensors(arrays, self._signature))
        values = (answers,) if len(names) == 1 else answers
        return {name: value.numpy() for name, value in zip(wanted, values, strict=True)}


def _require(names: Sequence[str], tensors_found: Sequence[str]) -> None:
    for name in names:
        if name not in tensors_found:
            raise UnsupportedError(f"value {name} is no tensor; ask for another")


def _plain(name: str) -> str:
    return re.sub(r"\.\d+$", "", name)
