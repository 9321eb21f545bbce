"""A loaded AOTInductor package as a session: the code for the batch that is given, else that for any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slipway.engines.base import Arrays
from slipway.engines.inductor_package import ANY_BATCH, Label
from slipway.engines.torch_session import TorchSession
from slipway.errors import BadInputError
from slipway.records import Signature

if TYPE_CHECKING:
    import torch


class InductorSession(TorchSession):
    """Checks sizes first: compiled code has no guards, and would read beyond an array's end."""

    def __init__(self, loaders: Mapping[int, Any], label: Label, signature: Signature, threads: int) -> None:
        from torch.utils import _pytree

        _, told = loaders[ANY_BATCH].get_call_spec()
        answer = _pytree.treespec_loads(told)

        def run(*inputs: torch.Tensor) -> object:
            loader = loaders.get(len(inputs[0])) or loaders[ANY_BATCH]
            return _pytree.tree_unflatten(loader.run(list(inputs)), answer)

        super().__init__(run, signature, threads)
        self.label = label

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        self._check(arrays)
        return super()._run(arrays)

    def _check(self, arrays: Arrays) -> None:
        sizes: dict[str, int] = {}
        for name, shape in zip(self._input_names, self.label.shapes, strict=True):
            for axis, (size, wanted) in enumerate(zip(arrays[name].shape, shape, strict=True)):
                least, largest = self.label.ranges.get(str(wanted), (0, None))
                if isinstance(wanted, int):
                    fits = size == wanted
                else:
                    fits = sizes.setdefault(wanted, size) == size >= least and (largest is None or size <= largest)
                if not fits:
                    raise self._wrong_size(name, axis, size)

    def _wrong_size(self, name: str, axis: int, size: int) -> BadInputError:
        shapes = ", ".join(
            f"{name} [{', '.join(map(str, shape))}]"
            for name, shape in zip(self._input_names, self.label.shapes, strict=True)
        )
        ranges = ", ".join(f"{name} from {a} to {b or 'any'}" for name, (a, b) in self.label.ranges.items())
        return BadInputError(
            f"the model was exported for {shapes}{f' with {ranges}' if ranges else ''}, and {name} has size {size} "
            f"in dimension {axis}; give arrays of one batch size, or export the model again with that size dynamic"
        )
