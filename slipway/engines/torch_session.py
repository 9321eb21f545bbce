"""A loaded PyTorch module as a session; eager and TorchScript modules run alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from slipway.engines.base import Arrays
from slipway.engines.session import CheckedSession
from slipway.errors import BadInputError
from slipway.records import Signature

if TYPE_CHECKING:
    import torch


class TorchSession(CheckedSession):
    """Calls a module with its inputs in the signature's order, on ``threads`` threads."""

    def __init__(self, module: Callable[..., object], signature: Signature, threads: int) -> None:
        super().__init__(signature)
        self._module = module
        self._threads = threads
        self._input_names = tuple(spec.name for spec in signature.inputs)
        self._output_names = tuple(spec.name for spec in signature.outputs)

    def executed_precision(self) -> dict[str, int]:
        """Empty: PyTorch does not tell which kernels it chose."""
        return {}

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        import torch

        use_threads(self._threads)
        with torch.inference_mode():
            outputs = self._module(*[torch.from_numpy(_writeable(arrays[name])) for name in self._input_names])
        tensors = self._in_order(outputs)
        return {name: tensor.numpy() for name, tensor in zip(self._output_names, tensors, strict=True)}

    def _in_order(self, outputs: object) -> Sequence[torch.Tensor]:
        """The answer's tensors in the signature's order: a dict by its names, anything else laid flat."""
        import torch

        if isinstance(outputs, torch.Tensor):
            tensors: Sequence[torch.Tensor] = (outputs,)
        elif isinstance(outputs, Mapping) and set(outputs) == set(self._output_names):
            tensors = [outputs[name] for name in self._output_names]
        elif isinstance(outputs, tuple) and all(isinstance(output, torch.Tensor) for output in outputs):
            tensors = outputs
        else:
            from torch.utils import _pytree

            tensors = _pytree.tree_leaves(outputs)
        if len(tensors) != len(self._output_names):
            raise BadInputError(
                f"the model returns {len(tensors)} outputs, its signature names {', '.join(self._output_names)}; "
                "register it with a signature inferred from its own outputs"
            )
        return tensors

    def _close(self) -> None:
        del self._module


def use_threads(threads: int) -> None:
    """Run PyTorch's operators on ``threads`` threads; the setting belongs to the calling thread, not to a session."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _writeable(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    # a tensor cannot be read-only: sharing such memory is undefined behaviour, and PyTorch warns of it
    return array if array.flags.writeable else array.copy()
