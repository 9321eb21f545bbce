"""A model as a graph of operators whose intermediate values can be asked for, whatever form it is written in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from slipway.exports.calling import Arrays

MOVING_KINDS = (
    "Cast Concat Constant Expand Gather Identity Reshape Shape Slice Split Squeeze Transpose Unsqueeze getitem"
)
MOVING = frozenset(MOVING_KINDS.split())


@dataclass(frozen=True)
class Operator:
    """One operator: its own name, its kind (``Relu``, ``aten.relu.default``), and its values by name."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def moves(self) -> bool:
        """Whether it moves or measures data, and computes nothing."""
        return self.kind in MOVING or self.kind.startswith("prim::")

    def __str__(self) -> str:
        """``node_relu (Relu)``."""
        return f"{self.name} ({self.kind})"


class Graph(Protocol):
    """A model that runs on inputs and keeps what it is asked for; outputs are called as the signature calls them."""

    @property
    def operators(self) -> tuple[Operator, ...]:
        """In an order of execution."""
        ...

    def values(self, arrays: Arrays, names: Sequence[str]) -> Arrays:
        """The values ``names`` on the inputs ``arrays``.

        Raises:
            UnsupportedError: one is no array.
        """
        ...


@dataclass(frozen=True)
class Region:
    """What computes one value: ``operators`` in order, from the ``sources``, which can be asked for, too."""

    sources: tuple[str, ...]
    operators: tuple[Operator, ...]

    @property
    def computing(self) -> tuple[Operator, ...]:
        """The operators that compute, or all where each only moves data."""
        return tuple(operator for operator in self.operators if not operator.moves) or self.operators


def regions(operators: Sequence[Operator], told: Collection[str]) -> dict[str, Region]:
    """By value of ``told``, in order of execution, the operators between it and the nearest values before it."""
    maker = {output: position for position, operator in enumerate(operators) for output in operator.outputs}
    found = {}
    for value in (name for name in maker if name in told):
        sources: list[str] = []
        members: set[int] = set()
        waiting = [value]
        while waiting:
            position = maker.get(waiting.pop())
            if position is None or position in members:
                continue
            members.add(position)
            for name in operators[position].inputs:
                (sources if name in told else waiting).append(name)
        found[value] = Region(tuple(dict.fromkeys(sources)), tuple(operators[position] for position in sorted(members)))
    return found
