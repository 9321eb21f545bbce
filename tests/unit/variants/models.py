"""Tiny models of the architectures that a variant has to do justice to, with signatures and examples."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from slipway.exports.calling import Arrays
from slipway.records import Signature, TensorSpec
from slipway.variants.inner_values import Batches


class Residual(nn.Module):
    """A convolutional net whose residual sum lies between int8 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        return self.head(torch.relu(self.last(torch.relu(self.block(x) + x))).mean((2, 3)))


class Depthwise(nn.Module):
    """Depthwise convolutions, gated activations, and a squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 16, 3, 1, 1, groups=16))
        self.point = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 24, 1), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 24, 1), nn.Sigmoid())
        self.head = nn.Linear(24, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.point(self.stem(image))
        return self.head((x * self.gate(x)).mean((2, 3)))


class Transformer(nn.Module):
    """A vision transformer's patches and one block of causally masked attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, 32, 4, 4), nn.Parameter(0.1 * torch.randn(1, 16, 32))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))
        self.qkv, self.mix = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2) + self.place
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).reshape(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mask = torch.full((length, length), float("-inf")).triu(1)
        attention = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5 + mask, -1)
        x = x + self.mix((attention @ v).transpose(1, 2).reshape(batch, length, width))
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


class BiLstm(nn.Module):
    """Embedding, bidirectional LSTM, linear: integers in."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(ids))[0][:, -1])


class OnlyGru(nn.Module):
    """A recurrent net, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 6, batch_first=True)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.gru(series)[0][:, -1]


class Series(nn.Module):
    """One-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 16, 5), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 8, 3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(series)).mean(2))


class TwoByTwo(nn.Module):
    """Two inputs, two outputs; the second has rank 1."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(60, 16), nn.Linear(30, 16), nn.Linear(16, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.left(left) + self.right(right))
        return self.head(hidden), hidden.sum(1)


class Upsampling(nn.Module):
    """A transposed convolution, and an image out."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.down(image)))


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(-1, *shape))


_IMAGE, _LOGITS = spec("image", 3, 16, 16), spec("logits", 10)
_TWO = ((spec("left", 60), spec("right", 30)), (spec("logits", 4), spec("total")))
SIGNATURES: dict[type[nn.Module], Signature] = {
    kind: Signature(inputs=inputs, outputs=outputs)
    for kind, (inputs, outputs) in {
        Residual: ((_IMAGE,), (_LOGITS,)),
        Depthwise: ((_IMAGE,), (_LOGITS,)),
        Transformer: ((_IMAGE,), (_LOGITS,)),
        BiLstm: ((spec("ids", 7, dtype="int64"),), (spec("logits", 5),)),
        OnlyGru: ((spec("series", 7, 8),), (spec("state", 6),)),
        Series: ((spec("series", 2, 40),), (spec("logits", 4),)),
        TwoByTwo: _TWO,
        Upsampling: ((_IMAGE,), (spec("enlarged", 3, 16, 16),)),
    }.items()
}


def made(kind: type[nn.Module]) -> nn.Module:
    """The model with fixed weights in evaluation mode, its batch-norm statistics warmed up."""
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        for seed in range(4):
            model(*map(torch.from_numpy, batch_of(kind, 16, seed).values()))
    return model.eval()


def batch_of(kind: type[nn.Module], size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs: floats are uniform in [-2, 2), which few examples cover; integers lie in [0, 20)."""
    random = np.random.default_rng(seed)
    arrays = {}
    for one in SIGNATURES[kind].inputs:
        shape = [size, *one.shape[1:]]
        drawn = random.integers(0, 20, shape) if one.dtype == "int64" else random.uniform(-2, 2, shape)
        arrays[one.name] = drawn.astype(one.dtype)
    return arrays


def stream(kind: type[nn.Module], *sizes: int) -> Batches:
    """Random batches of these sizes, the same each time."""

    def batches() -> list[Arrays]:
        return [batch_of(kind, size, seed=100 + index) for index, size in enumerate(sizes)]

    return batches


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
