"""With a Debian package made here, of the same layout as the published one."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slipway.examples import fashion
from slipway.examples.transformer import CompactTransformer


def _clothes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) uint8 with one bright bar, whose place tells the class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = rng.integers(0, 40, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 7] = 255
    return images, labels


def _add(archive: tarfile.TarFile, name: str, header: bytes, values: np.ndarray) -> None:
    content = gzip.compress(header + values.tobytes())
    member = tarfile.TarInfo(f"{fashion.DIRECTORY}/{name}-ubyte.gz")
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _debian_package(members: dict[str, bytes]) -> bytes:
    package = b"!<arch>\n"
    for name, content in members.items():
        package += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        package += b"\n" * (len(content) % 2)
    return package


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """400 images to train, 100 to test, in place of the published package."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for part, (images, labels) in (("t10k", _clothes(100, 1)), ("train", _clothes(400, 0))):
            _add(archive, f"{part}-images-idx3", bytes(16), images)
            _add(archive, f"{part}-labels-idx1", bytes(8), labels)
    path = tmp_path / ".slipway" / "downloads" / fashion.IMAGES.filename
    path.parent.mkdir(parents=True)
    path.write_bytes(
        _debian_package({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()})
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(fashion, "IMAGES", replace(fashion.IMAGES, sha256=digest))
    monkeypatch.setattr(fashion, "N_CALIBRATION", 32)
    return path


def test_images_lie_between_0_and_1_and_keep_their_labels(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, "N_TRAIN", 300)
    splits = fashion.load_splits(package)
    assert {name: split.inputs.shape for name, split in splits.items()} == {
        "train": (300, 1, 28, 28),
        "calibration": (32, 1, 28, 28),
        "test": (100, 1, 28, 28),
    }
    images, labels = _clothes(100, 1)
    assert (splits["test"].inputs.dtype, splits["test"].labels.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(splits["test"].inputs[:, 0], images / 255, rtol=1e-6)
    assert splits["test"].labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(splits["calibration"].inputs, splits["train"].inputs[:32])


@pytest.mark.usefixtures("package")
def test_training_learns_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, "SCHEDULE", fashion.SCHEDULE._replace(epochs=4, batch_size=20))
    monkeypatch.setattr(fashion, "N_TRAIN", 200)
    told: list[str] = []
    _, module = fashion.make(tmp_path, told.append)
    assert not module.training
    assert told[0] == "fetching dataset-fashion-mnist 0.0~git20200523.55506a9-1 (31 MB) with apt"
    assert [line.partition(", loss ")[0] for line in told[1:]] == [
        f"training fashion-transformer: epoch {epoch}/4" for epoch in (1, 2, 3, 4)
    ]
    losses = [float(line.partition(", loss ")[2]) for line in told[1:]]
    assert losses[-1] < 0.8 * losses[0]


def test_the_network_takes_what_the_signature_says() -> None:
    signature = fashion.EXAMPLE.signature
    module = CompactTransformer(classes=fashion.EXAMPLE.classes).eval()
    with torch.inference_mode():
        logits = module(torch.zeros(3, *signature.inputs[0].shape[1:]))
    assert logits.shape[1:] == signature.outputs[0].shape[1:]
