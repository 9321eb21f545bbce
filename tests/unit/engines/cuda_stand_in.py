"""A stand-in for PyTorch's CUDA graphs, on the CPU: it records the operators of a capture; a replay repeats them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


class CudaGraph:
    """Repeats what was captured into the same tensors; counts how often."""

    made: list[CudaGraph]

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.replays = 0
        CudaGraph.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        for call in self.calls:
            call()


class Capture(TorchDispatchMode):
    """In place of `torch.cuda.graph`: what runs inside of it is recorded, and computes nothing before a replay."""

    refused: str | None = None

    def __init__(self, graph: CudaGraph, stream: object, capture_error_mode: str) -> None:
        super().__init__()
        assert capture_error_mode == "thread_local"
        self.graph = graph
        self.uncomputed: list[torch.Tensor] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.refused:
            raise RuntimeError(self.refused)
        results = function(*args, **(kwargs or {}))
        kept, given = _tensors(results), {one.data_ptr() for one in _tensors((args, kwargs))}
        self.uncomputed += [one for one in kept if one.is_floating_point() and one.data_ptr() not in given]

        def repeat() -> None:
            for old, new in zip(kept, _tensors(function(*args, **(kwargs or {}))), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

        self.graph.calls.append(repeat)
        return results

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for one in self.uncomputed:
            one.fill_(float("nan"))


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [one for one in _pytree.tree_leaves(tree) if isinstance(one, torch.Tensor)]


def plug_in(monkeypatch: pytest.MonkeyPatch, refused: str | None = None) -> list[CudaGraph]:
    """Let PyTorch capture on the CPU, or refuse to; the graphs that it makes."""
    CudaGraph.made = []
    monkeypatch.setattr(Capture, "refused", refused)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CudaGraph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    return CudaGraph.made
