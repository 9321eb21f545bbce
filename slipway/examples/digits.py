"""Handwritten digits (scikit-learn's 1,797 images of 8x8 pixels) and a small residual network, trained in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from slipway.examples.recipe import Example, Reporter, Split

if TYPE_CHECKING:
    from slipway.examples.resnet import ResNet

MODEL_NAME = "digits-resnet"
N_TEST = 1000
N_CALIBRATION = 256
SEED = 0
EPOCHS = 8
BATCH_SIZE = 32
PEAK_LEARNING_RATE = 0.1


def load_splits() -> dict[str, Split]:
    """Stratified: 1,000 images to test, 797 to train, and 256 of these to calibrate; the same bytes every time."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = upsample(pixels.reshape(-1, 8, 8) / 16)[:, np.newaxis]
    images_train, images_test, labels_train, labels_test = train_test_split(
        images, labels.astype(np.int64), test_size=N_TEST, stratify=labels, random_state=SEED
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


def train(split: Split, progress: Callable[[int, int, float], None]) -> ResNet:
    """A residual network of 0.3 million weights, in evaluation mode; ``progress`` gets (epoch, epochs, mean loss).

    Stochastic gradient descent under the one-cycle schedule (Smith & Topin 2019), on one thread: the weights then do
    not depend on how many cores there are, and two threads on two busy cores are slower than one.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from slipway.examples.resnet import ResNet

    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = ResNet(channels_in=1, widths=(32, 64, 128), blocks=1)
        optimizer = torch.optim.SGD(module.parameters(), PEAK_LEARNING_RATE, 0.9, weight_decay=5e-4, nesterov=True)
        steps = EPOCHS * -(-len(labels) // BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps, pct_start=0.25)
        for epoch in range(1, EPOCHS + 1):
            total = 0.0
            for batch in torch.split(torch.randperm(len(labels)), BATCH_SIZE):
                loss = cross_entropy(module(images[batch]), labels[batch], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is incomplete
                optimizer.step()
                schedule.step()
                total += loss.item() * len(batch)
            progress(epoch, EPOCHS, total / len(labels))
    return module.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make(root: Path, progress: Reporter) -> tuple[dict[str, Split], ResNet]:  # noqa: ARG001 - nothing is downloaded
    """The splits, and the network trained on the first."""
    splits = load_splits()
    module = train(
        splits["train"],
        lambda epoch, epochs, loss: progress(f"training {MODEL_NAME}: epoch {epoch}/{epochs}, loss {loss:.2f}"),
    )
    return splits, module


EXAMPLE = Example(
    name="digits",
    model_name=MODEL_NAME,
    params=Path("params.yaml"),
    channels=1,
    sources=(Path(__file__), Path(__file__).with_name("resnet.py")),
    distributions=("torch", "numpy", "scikit-learn"),
    make=make,
)
