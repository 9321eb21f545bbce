from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from torch.nn.functional import interpolate

from slipway.examples import digits
from slipway.examples.recipe import SHARD_SIZE, Split
from slipway.stores.datasets import write_shards
from slipway.stores.mlflow_models import weights_sha256
from slipway.stores.tracking import track

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return digits.load_splits()


def _contents(images: npt.NDArray[np.float32]) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_splits_are_stratified_and_hold_what_the_network_takes(splits: dict[str, Split]) -> None:
    assert {name: len(split.labels) for name, split in splits.items()} == {
        "train": 797,
        "calibration": 256,
        "test": 1000,
    }
    for split in splits.values():
        assert split.inputs.shape[1:] == (1, 32, 32)
        assert (split.inputs.dtype, split.labels.dtype) == (np.float32, np.int64)
        assert (split.inputs.min(), split.inputs.max()) == (0, 1)
    assert np.bincount(splits["test"].labels).min() >= 96


def test_no_test_image_is_seen_in_training_or_calibration(splits: dict[str, Split]) -> None:
    train, calibration, test = (_contents(splits[name].inputs) for name in ("train", "calibration", "test"))
    assert calibration < train
    assert not train & test
    assert len(train | test) == 1797


def test_the_upsampling_is_the_bilinear_one() -> None:
    images = np.random.default_rng(0).integers(0, 17, (3, 8, 8)) / 16
    expected = interpolate(torch.from_numpy(images)[:, None], size=32, mode="bilinear")[:, 0].numpy()
    np.testing.assert_array_equal(digits.upsample(images), expected)


@pytest.mark.parametrize("name", ["train", "calibration", "test"])
def test_the_data_has_the_md5_that_the_repository_tracks(name: str, splits: dict[str, Split], tmp_path: Path) -> None:
    from dvc.repo import Repo

    Repo.init(str(tmp_path), no_scm=True).close()
    write_shards(tmp_path / name, {"image": splits[name].inputs}, splits[name].labels, SHARD_SIZE)
    (tracked,) = yaml.safe_load((ROOT / "data" / "digits" / f"{name}.dvc").read_text())["outs"]
    assert track(tmp_path / name).md5 == tracked["md5"]


def test_training_is_repeatable_and_leaves_torch_as_it_was(
    splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "SCHEDULE", digits.SCHEDULE._replace(epochs=4))
    few = Split(splits["train"].inputs[:40], splits["train"].labels[:40])
    told: list[tuple[int, int, float]] = []
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = digits.train(few, lambda *progress: told.append(progress))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.rand(1)
    assert weights_sha256(digits.train(few, lambda *_: None)) == weights_sha256(first)
    assert not first.training
    assert [(epoch, epochs) for epoch, epochs, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(np.isfinite(loss) for *_, loss in told)


@pytest.mark.slow
def test_the_network_reads_985_of_1000_digits(splits: dict[str, Split], tmp_path: Path) -> None:
    told: list[str] = []
    _, module = digits.make(tmp_path, told.append)
    with torch.inference_mode():
        answers = module(torch.from_numpy(splits["test"].inputs)).argmax(1).numpy()
    assert (answers == splits["test"].labels).mean() >= 0.985
    assert told[-1].startswith("training digits-resnet: epoch 8/8, loss 0.")
