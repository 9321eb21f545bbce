"""Handwritten digits (scikit-learn's 1,797 images of 8x8 pixels) and a small residual network, trained in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from slipway.examples.recipe import Example, Reporter, Split
from slipway.examples.training import Progress, Schedule, told, train_classifier
from slipway.records import TensorSpec

if TYPE_CHECKING:
    from slipway.examples.resnet import ResNet

MODEL_NAME = "digits-resnet"
N_TEST = 1000
N_CALIBRATION = 256
SPLIT_SEED = 0
SCHEDULE = Schedule(epochs=8, batch_size=32, peak_learning_rate=0.1)


def load_splits() -> dict[str, Split]:
    """Stratified: 1,000 images to test, 797 to train, and 256 of these to calibrate; the same bytes every time."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = upsample(pixels.reshape(-1, 8, 8) / 16)[:, np.newaxis]
    images_train, images_test, labels_train, labels_test = train_test_split(
        images, labels.astype(np.int64), test_size=N_TEST, stratify=labels, random_state=SPLIT_SEED
    )
    return {
        "train": Split(images_train, labels_train),
        "calibration": Split(images_train[:N_CALIBRATION], labels_train[:N_CALIBRATION]),
        "test": Split(images_test, labels_test),
    }


def upsample(images: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Bilinear, fourfold: (N, 8, 8) to (N, 32, 32), between pixel centres, with the edges repeated.

    The weights are multiples of 1/8 and the pixels of 1/16, so that every result is exact, on any machine.
    """
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(centres[:, np.newaxis] - np.arange(8)))
    enlarged: npt.NDArray[np.float64] = weights @ images @ weights.T
    return enlarged.astype(np.float32)


def train(split: Split, progress: Progress) -> ResNet:
    """A residual network of 0.3 million weights, trained by stochastic gradient descent."""
    import torch

    from slipway.examples.resnet import ResNet

    def optimizer(module: ResNet) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), SCHEDULE.peak_learning_rate, 0.9, weight_decay=5e-4, nesterov=True)

    def untrained() -> ResNet:
        return ResNet(channels_in=1, widths=(32, 64, 128), blocks=1)

    return train_classifier(untrained, optimizer, split, SCHEDULE, progress)


def make(root: Path, progress: Reporter) -> tuple[dict[str, Split], ResNet]:  # noqa: ARG001 - nothing is downloaded
    """The splits, and the network trained on the first."""
    splits = load_splits()
    module = train(splits["train"], told(MODEL_NAME, progress))
    return splits, module


EXAMPLE = Example(
    name="digits",
    model_name=MODEL_NAME,
    params=Path("params.yaml"),
    input=TensorSpec(name="image", dtype="float32", shape=(-1, 1, 32, 32)),
    classes=10,
    sources=tuple(Path(__file__).with_name(name) for name in ("digits.py", "resnet.py", "training.py")),
    distributions=("torch", "numpy", "scikit-learn"),
    make=make,
)
