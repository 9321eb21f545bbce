"""Eight kinds of network that people register, each tiny, with fixed weights, a signature and inputs like real ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from slipway.engines.base import Arrays
from slipway.records import Signature, TensorSpec
from tests.contract.engines.tiny import Residual

NAMES = ("residual", "separable", "transformer", "bilstm", "two-by-two", "control-flow", "embedding", "audio")
SCRIPTED = ("control-flow",)  # torch.export cannot capture what depends on the data; TorchScript can


@dataclass(frozen=True)
class Architecture:
    """A module in evaluation mode, its signature, and how ``count`` examples of its inputs are drawn."""

    name: str
    module: nn.Module
    signature: Signature
    draw: Callable[[np.random.Generator, int], Arrays]

    def arrays(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """Inputs by name, examples first."""
        return dict(self.draw(np.random.default_rng(seed), count))

    def answers(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """What eager fp32 PyTorch answers."""
        with torch.no_grad():
            outputs = self.module(*(torch.from_numpy(arrays[spec.name]) for spec in self.signature.inputs))
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        return {spec.name: found.numpy() for spec, found in zip(self.signature.outputs, tensors, strict=True)}

    def spans(self) -> dict[str, float]:
        """The largest absolute value of each output over 64 examples: what differences are told against."""
        return {name: float(np.abs(found).max()) for name, found in self.answers(self.arrays(64, seed=3)).items()}


class SeparableBlock(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018): widen by 1x1, filter each channel by itself, narrow by 1x1."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels_in
        self.shortcut = stride == 1 and channels_in == channels_out
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class SeparableNet(nn.Sequential):
    """A stem, two separable blocks, a head."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            SeparableBlock(8, 8, 1),
            SeparableBlock(8, 16, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        )


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions and PyTorch's own encoder (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(image.shape[0], -1, -1), x), 1) + self.positions
        return self.head(self.encoder(x)[:, 0])


class BidirectionalLstm(nn.Module):
    """An LSTM in both directions over a series; the mean state of each direction is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 64, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 4)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.lstm(series)[0].mean(1))


class TwoByTwo(nn.Module):
    """A picture and a record of numbers in; class scores and one regressed number (rank 1) out."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU())
        self.record = nn.Sequential(nn.Linear(5, 16), nn.ReLU())
        self.scores, self.price = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, picture: Tensor, record: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat((self.picture(picture).mean((2, 3)), self.record(record)), 1)
        return self.scores(joined), self.price(joined).squeeze(1)


class Equilibrium(nn.Module):
    """Refines its state until it no longer moves (Bai et al. 2019): how often depends on the data, and only on them."""

    def __init__(self) -> None:
        super().__init__()
        self.drive, self.turn, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.turn.weight.mul_(0.5 / torch.linalg.matrix_norm(self.turn.weight, 2))  # a contraction: it settles

    def forward(self, features: Tensor) -> Tensor:
        size = features.abs().max()
        if bool(size > 4):
            features = features * (4 / size)
        drive = self.drive(features)
        state = torch.tanh(drive)
        moved = torch.ones_like(size)
        steps = 0
        while steps < 30 and bool(moved > 1e-3):
            before = state
            state = torch.tanh(drive + self.turn(before))
            moved = (state - before).abs().max()
            steps += 1
        return self.head(state)


class TextClassifier(nn.Module):
    """Token ids in, 0 for padding; the mean embedding of the real tokens is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16, padding_idx=0)
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 3))

    def forward(self, ids: Tensor) -> Tensor:
        real = (ids != 0).unsqueeze(2)
        mean = (self.embedding(ids) * real).sum(1) / real.sum(1).clamp(min=1)
        return self.layers(mean)


class AudioNet(nn.Sequential):
    """Convolutions straight over the waveform (Dai et al. 2017, M5)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(1, 16, 80, stride=16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.MaxPool1d(4),
            nn.Conv1d(16, 32, 3, dilation=2),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(32, 8),
        )


def make() -> dict[str, Architecture]:
    """All architectures by name, the same ones every time."""
    made = (
        _one("residual", Residual, "image", (3, 32, 32), 10, _pictures),
        _one("separable", SeparableNet, "image", (3, 32, 32), 10, _pictures),
        _one("transformer", VisionTransformer, "image", (3, 32, 32), 10, _pictures),
        _one("bilstm", BidirectionalLstm, "series", (24, 6), 4, _walks),
        _two_by_two(),
        _one("control-flow", Equilibrium, "features", (12,), 4, _normal),
        _one("embedding", TextClassifier, "ids", (20,), 3, _token_ids, "int64"),
        _one("audio", AudioNet, "waveform", (1, 4000), 8, _tones),
    )
    return {one.name: one for one in made}


def registered(architecture: Architecture) -> nn.Module:
    """The module as its author registers it: with control flow that depends on the data as TorchScript, else as is."""
    if architecture.name not in SCRIPTED:
        return architecture.module
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        return torch.jit.script(architecture.module)


def _one(
    name: str,
    kind: Callable[[], nn.Module],
    input_name: str,
    shape: tuple[int, ...],
    classes: int,
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
    dtype: str = "float32",
) -> Architecture:
    signature = Signature(
        inputs=(TensorSpec(name=input_name, dtype=dtype, shape=(-1, *shape)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, classes)),),
    )

    def drawn(rng: np.random.Generator, count: int) -> Arrays:
        return {input_name: draw(rng, (count, *shape)).astype(dtype)}

    return _settled(Architecture(name, _seeded(kind), signature, drawn))


def _two_by_two() -> Architecture:
    signature = Signature(
        inputs=(
            TensorSpec(name="picture", dtype="float32", shape=(-1, 1, 16, 16)),
            TensorSpec(name="record", dtype="float32", shape=(-1, 5)),
        ),
        outputs=(
            TensorSpec(name="scores", dtype="float32", shape=(-1, 3)),
            TensorSpec(name="price", dtype="float32", shape=(-1,)),
        ),
    )

    def drawn(rng: np.random.Generator, count: int) -> Arrays:
        picture, record = _pictures(rng, (count, 1, 16, 16)), _normal(rng, (count, 5))
        return {"picture": picture.astype(np.float32), "record": record.astype(np.float32)}

    return _settled(Architecture("two-by-two", _seeded(TwoByTwo), signature, drawn))


def _seeded(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind()


def _settled(architecture: Architecture) -> Architecture:
    """With the statistics of its batch normalisation taken from its own inputs, in evaluation mode."""
    architecture.module.train()
    for seed in range(4):
        architecture.answers(architecture.arrays(64, seed))
    architecture.module.eval()
    return architecture


def _pictures(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """In [0, 1]: patches of one brightness, as in photographs, under a little noise."""
    patches = rng.random((*shape[:2], shape[2] // 8, shape[3] // 8)).repeat(8, 2).repeat(8, 3)
    return (patches + 0.05 * rng.standard_normal(shape)).clip(0, 1)


def _walks(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random walks, each with a spread of about 1."""
    return rng.standard_normal(shape).cumsum(1) / np.sqrt(shape[1])


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def _token_ids(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Frequent words more often (Zipf), each text padded with zeros behind its own length."""
    ids = 1 + rng.zipf(1.5, shape) % 99
    return ids * (np.arange(shape[1]) < rng.integers(3, shape[1] + 1, (shape[0], 1)))


def _tones(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A tone at 8 kHz between 100 and 1000 Hz, its loudness its own, under noise."""
    pitch_hz, loudness = rng.uniform(100, 1000, (shape[0], 1, 1)), rng.uniform(0.1, 1, (shape[0], 1, 1))
    return loudness * np.sin(2 * np.pi * pitch_hz * np.arange(shape[2]) / 8000) + 0.02 * rng.standard_normal(shape)
