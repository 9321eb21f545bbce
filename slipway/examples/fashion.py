"""Fashion-MNIST (Xiao et al. 2017) and a small transformer, trained on 20,000 of its images in three minutes."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slipway.examples.downloads import Package
from slipway.examples.recipe import Example, Reporter, Split
from slipway.examples.training import Progress, Schedule, told, train_classifier
from slipway.records import TensorSpec

if TYPE_CHECKING:
    from slipway.examples.transformer import CompactTransformer

MODEL_NAME = "fashion-transformer"
N_TRAIN = 20_000
N_CALIBRATION = 512
SCHEDULE = Schedule(epochs=6, batch_size=64, peak_learning_rate=2e-3)
IMAGES = Package(
    client="apt",
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    size_mb=31,
)
DIRECTORY = "./usr/share/datasets/fashion-mnist"


def load_splits(package: Path) -> dict[str, Split]:
    """All 10,000 test images, 20,000 of the training images, and 512 of these to calibrate; scaled to [0, 1]."""
    with tarfile.open(fileobj=io.BytesIO(_member(package, "data.tar"))) as archive:
        test, train = _read(archive, "t10k", 10_000), _read(archive, "train", N_TRAIN)
    calibration = Split(train.inputs[:N_CALIBRATION], train.labels[:N_CALIBRATION])
    return {"train": train, "calibration": calibration, "test": test}


def train(split: Split, progress: Progress) -> CompactTransformer:
    """A transformer of half a million weights, trained by AdamW (Loshchilov & Hutter 2019)."""
    import torch

    from slipway.examples.transformer import CompactTransformer

    def optimizer(module: CompactTransformer) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), SCHEDULE.peak_learning_rate, weight_decay=0.05)

    return train_classifier(lambda: CompactTransformer(classes=10), optimizer, split, SCHEDULE, progress)


def make(root: Path, progress: Reporter) -> tuple[dict[str, Split], CompactTransformer]:
    """The splits, and the network trained on the first; the package is fetched unless it is there."""
    progress(f"fetching {IMAGES.name} {IMAGES.version} ({IMAGES.size_mb} MB) with {IMAGES.client}")
    splits = load_splits(IMAGES.fetch(root / ".slipway" / "downloads"))
    return splits, train(splits["train"], told(MODEL_NAME, progress))


def _member(package: Path, stem: str) -> bytes:
    """The member of a Debian package whose name begins so.

    The package is an ``ar`` archive (deb(5)): 8 bytes of magic, then per member a header of 60 bytes with the name in
    the first 16 and the size in bytes 48 to 58, and the content, filled up to an even length.
    """
    content = package.read_bytes()
    at = 8
    while at < len(content):
        name, size = content[at : at + 16].decode(), int(content[at + 48 : at + 58])
        if name.startswith(stem):
            return content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise AssertionError(f"no {stem} in {package}, whose sha256 is pinned")


def _read(archive: tarfile.TarFile, part: str, n: int) -> Split:
    """The first ``n`` images and labels: big-endian IDX files, a header of 16 and of 8 bytes, then unsigned bytes."""
    pixels = np.frombuffer(_unpacked(archive, f"{part}-images-idx3-ubyte.gz"), np.uint8, offset=16)
    labels = np.frombuffer(_unpacked(archive, f"{part}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
    images = pixels.reshape(-1, 1, 28, 28)[:n].astype(np.float32) / np.float32(255)
    return Split(images, labels[:n].astype(np.int64))


def _unpacked(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(f"{DIRECTORY}/{name}")
    assert member is not None  # the sha256 of the package is pinned
    return gzip.decompress(member.read())


EXAMPLE = Example(
    name="fashion",
    model_name=MODEL_NAME,
    params=Path(__file__).with_name("fashion.yaml"),
    input=TensorSpec(name="image", dtype="float32", shape=(-1, 1, 28, 28)),
    classes=10,
    sources=tuple(Path(__file__).with_name(name) for name in ("fashion.py", "transformer.py", "training.py")),
    distributions=("torch", "numpy"),
    make=make,
)
