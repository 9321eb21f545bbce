"""Tiny models of four kinds, with signatures and examples."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from slipway.exports.calling import Arrays
from slipway.exports.program import capture
from slipway.records import Signature, TensorSpec


class ResidualNet(nn.Module):
    """A convolutional net with batch normalisation and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        return self.head(torch.relu(self.block(x) + x).mean((2, 3)))


class TwoByTwo(nn.Module):
    """Two inputs, two outputs; the second has rank 1."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.left(left) + self.right(right))
        return hidden, hidden.sum(1)


class NamedOutputs(TwoByTwo):
    """Answers with a dict, in another order than its signature."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        hidden, total = super().forward(left, right)
        return {"total": total, "hidden": hidden}


class Mlp(nn.Sequential):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5, bias=False))


class TextNet(nn.Module):
    """Embedding, LSTM, linear: int64 in, and an initial state made from the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(ids))
        return self.head(states[:, -1])


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    """A named tensor."""
    return TensorSpec(name=name, dtype=dtype, shape=shape)


_TWO = Signature(inputs=(spec("left", -1, 6), spec("right", -1, 3)), outputs=(spec("hidden", -1, 4), spec("total", -1)))
SIGNATURES: dict[type[nn.Module], Signature] = {
    ResidualNet: Signature(inputs=(spec("image", -1, 1, 8, 8),), outputs=(spec("logits", -1, 10),)),
    TwoByTwo: _TWO,
    NamedOutputs: _TWO,
    Mlp: Signature(inputs=(spec("features", -1, 64),), outputs=(spec("logits", -1, 5),)),
    TextNet: Signature(inputs=(spec("ids", -1, 5, dtype="int64"),), outputs=(spec("logits", -1, 3),)),
}
MODELS = tuple(SIGNATURES)


def make(kind: type[nn.Module]) -> tuple[nn.Module, Arrays, Signature]:
    """A model with fixed weights in evaluation mode, an example of batch 4 and its signature."""
    torch.manual_seed(0)
    model = kind().eval()
    return model, batch_of(SIGNATURES[kind], 4), SIGNATURES[kind]


def batch_of(signature: Signature, batch: int, seed: int = 0) -> Arrays:
    """Random inputs: floats are normal, integers lie in [0, 20)."""
    random = np.random.default_rng(seed)
    arrays = {}
    for one in signature.inputs:
        shape = [batch, *one.shape[1:]]
        drawn = random.integers(0, 20, shape) if one.dtype == "int64" else random.standard_normal(shape)
        arrays[one.name] = drawn.astype(one.dtype)
    return arrays


def loaded_program(model: nn.Module, example: Arrays, signature: Signature) -> torch.fx.GraphModule:
    """The model as ``torch.export.load(...).module()`` gives it."""
    return capture(model, example, signature).module()


def scripted(model: nn.Module, example: Arrays, signature: Signature) -> torch.jit.ScriptModule:
    """The model as a person would register it in TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # nn.LSTM checks its input's size
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        inputs = tuple(torch.from_numpy(example[one.name]) for one in signature.inputs)
        return torch.jit.trace(model, inputs, check_trace=False)
