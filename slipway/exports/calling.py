"""How an exporter calls a model: positional tensors in the signature's order in, plain tensors in its order out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from slipway.errors import BadInputError, first_line
from slipway.records import Signature

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Arrays: TypeAlias = Mapping[str, npt.NDArray[np.generic]]

TRACED_BATCH = 2  # torch specialises sizes 0 and 1 to constants
OTHER_BATCH = 3


def at_batch(arrays: Arrays, signature: Signature, batch: int) -> dict[str, npt.NDArray[np.generic]]:
    """``arrays`` with ``batch`` rows wherever the signature's dimension 0 is dynamic; rows repeat if there are too few.

    Raises:
        BadInputError: an input is missing, is empty, or has another dtype than the signature.
    """
    resized = {}
    for spec in signature.inputs:
        if spec.name not in arrays:
            raise BadInputError(f"the example lacks input {spec.name!r}; it has {', '.join(arrays) or 'nothing'}")
        array = arrays[spec.name]
        if array.dtype != np.dtype(spec.dtype) or array.size == 0:
            raise BadInputError(
                f"the example's input {spec.name!r} is {array.dtype} of shape {array.shape}; "
                f"give a non-empty array of {spec.dtype}"
            )
        dynamic = bool(spec.shape) and spec.shape[0] == -1
        resized[spec.name] = array[np.arange(batch) % len(array)] if dynamic else array
    return resized


def tensors(arrays: Arrays, signature: Signature) -> tuple[torch.Tensor, ...]:
    """The inputs as tensors that own their memory, in the signature's order."""
    import torch

    return tuple(torch.from_numpy(np.array(arrays[spec.name], order="C")) for spec in signature.inputs)


def run(module: torch.nn.Module, arrays: Arrays, signature: Signature) -> tuple[torch.Tensor, ...]:
    """The module's outputs on ``arrays``, in the signature's order, without gradients."""
    import torch

    with torch.no_grad():
        return ordered(module(*tensors(arrays, signature)), signature)


def ordered(outputs: object, signature: Signature) -> tuple[torch.Tensor, ...]:
    """The tensors of a module's answer (tensor, nested sequence or dict), in the signature's order.

    Raises:
        BadInputError: names or number differ from the signature.
    """
    import torch
    from torch.utils import _pytree

    leaves = _pytree.tree_leaves(in_order(outputs, signature) if isinstance(outputs, Mapping) else outputs)
    if len(leaves) != len(signature.outputs) or not all(map(torch.is_tensor, leaves)):
        raise BadInputError(
            f"the model returns {len(leaves)} values, its signature names {len(signature.outputs)} outputs; "
            "log it with a signature inferred from its own outputs"
        )
    return tuple(leaves)


def in_order(outputs: Mapping[str, T], signature: Signature) -> list[T]:
    """The values of a dict of outputs in the signature's order.

    Raises:
        BadInputError: the names differ from the signature.
    """
    names = [spec.name for spec in signature.outputs]
    if set(outputs) != set(names):
        raise BadInputError(
            f"the model returns {', '.join(map(str, outputs))}, its signature names {', '.join(names)}; "
            "log it with a signature inferred from its own outputs"
        )
    return [outputs[name] for name in names]


def leaves_in_order(answer: Any, module: torch.fx.GraphModule, signature: Signature) -> list[Any]:
    """What a captured graph answers, a dict, nest or plain value of its nodes, laid flat in the signature's order."""
    from torch.utils import _pytree

    structure = getattr(module.graph._codegen, "pytree_info", None)
    if structure is not None:
        answer = _pytree.tree_unflatten(_pytree.tree_leaves(answer), structure.out_spec)
    return _pytree.tree_leaves(in_order(answer, signature) if isinstance(answer, Mapping) else answer)


def exportable(module: torch.nn.Module, example: Arrays, signature: Signature) -> torch.nn.Module:
    """The module itself, or the module with its dict or nested outputs laid flat in the signature's order.

    It is run first at two batch sizes, so that a model whose batch was frozen is refused before anything is written.

    Raises:
        BadInputError: the model does not run on the example, or not on another batch although the signature says -1.
    """
    import torch

    with torch.no_grad():
        for batch in (OTHER_BATCH, TRACED_BATCH):
            inputs = tensors(at_batch(example, signature, batch), signature)
            try:
                outputs = module(*inputs)
            except Exception as error:
                raise _refusal(module, example, signature, batch, error) from error
    ordered(outputs, signature)
    if isinstance(outputs, torch.Tensor) or (isinstance(outputs, tuple | list) and all(map(torch.is_tensor, outputs))):
        return module
    return _laid_flat(module, signature)


def _refusal(
    module: torch.nn.Module, example: Arrays, signature: Signature, batch: int, error: Exception
) -> BadInputError:
    runs = [
        size for size in (1, TRACED_BATCH, OTHER_BATCH) if _runs(module, at_batch(example, signature, size), signature)
    ]
    if not runs:
        return BadInputError(
            f"the model does not run on its example: {first_line(error)}; do its signature's shapes and dtypes fit it?"
        )
    return BadInputError(
        f"the model's signature has a dynamic batch (-1), but it runs on a batch of {runs[0]} and not of {batch} "
        f"({first_line(error)}); log it with an input_example of batch >= 2, and have its forward take the batch as "
        "x.shape[0], never as len(x) or a constant"
    )


def _runs(module: torch.nn.Module, arrays: Arrays, signature: Signature) -> bool:
    try:
        run(module, arrays, signature)
    except Exception:  # noqa: BLE001 - a module may raise anything; the cause told is that of its first run
        return False
    return True


def _laid_flat(module: torch.nn.Module, signature: Signature) -> torch.nn.Module:
    import torch

    class LaidFlat(torch.nn.Module):
        """Answers with a tuple in the signature's order."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return ordered(self.module(*inputs), signature)

    return LaidFlat()
