"""Against a real DVC repository without git."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.errors import BadInputError, TamperedError
from slipway.steps.data import check_data
from slipway.stores.tracking import track
from tests.unit.steps.material import images, write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("repository")
    Repo.init(str(folder), no_scm=True).close()
    return folder


def data(root: Path, name: str, inputs: np.ndarray) -> Path:
    directory = root / "data" / name
    write_data(directory, inputs, np.zeros(len(inputs), np.int64))
    track(directory)
    return directory


def test_data_that_is_what_dvc_tracks(root: Path) -> None:
    test, calibration = data(root, "test", images(6)), data(root, "calibration", images(4, seed=1))

    checked = check_data(test, calibration, ["image"])

    assert (checked.test.path, checked.test.files) == (str(test), 2)
    assert checked.calibration is not None
    assert checked.calibration.md5 != checked.test.md5
    assert checked.test.md5.endswith(".dir")
    assert check_data(test, None, ["image"]).calibration is None


@pytest.mark.parametrize("which", ["test", "calibration"])
def test_a_changed_file_is_named(which: str, root: Path) -> None:
    directories = {
        "test": data(root, f"test-{which}", images(6)),
        "calibration": data(root, f"calibration-{which}", images(4, seed=1)),
    }
    with (directories[which] / "shard-00001.npz").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"X")

    with pytest.raises(TamperedError, match=rf"data/{which}-{which} should have .*: changed shard-00001\.npz"):
        check_data(directories["test"], directories["calibration"], ["image"])


def test_calibration_on_test_examples_is_refused(root: Path) -> None:
    test = data(root, "exam", images(6))
    crib = data(root, "crib", np.concatenate([images(3, seed=1), images(6)[2:4]]))

    with pytest.raises(BadInputError, match=r"crib and .*exam share 2 examples: .* its own exam proves nothing"):
        check_data(test, crib, ["image"])


def test_missing_and_untracked_data_are_refused(root: Path) -> None:
    untracked = root / "data" / "untracked"
    write_data(untracked, images(2), np.zeros(2, np.int64))

    with pytest.raises(BadInputError, match="is not tracked by DVC"):
        check_data(untracked, None, ["image"])
    with pytest.raises(BadInputError, match="does not exist"):
        check_data(root / "data" / "nowhere", None, ["image"])
