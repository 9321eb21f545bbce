"""Against a real DVC repository without git."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.errors import BadInputError, TamperedError
from slipway.records import Signature, TensorSpec
from slipway.steps.data import check_data
from slipway.stores.tracking import track
from tests.unit.steps.material import SIGNATURE, images, write_data


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

    checked = check_data(test, calibration, SIGNATURE)

    assert (checked.test.path, checked.test.files) == (str(test), 2)
    assert checked.calibration is not None
    assert checked.calibration.md5 != checked.test.md5
    assert checked.test.md5.endswith(".dir")
    assert check_data(test, None, SIGNATURE).calibration is None


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
        check_data(directories["test"], directories["calibration"], SIGNATURE)


def test_calibration_on_test_examples_is_refused(root: Path) -> None:
    test = data(root, "exam", images(6))
    crib = data(root, "crib", np.concatenate([images(3, seed=1), images(6)[2:4]]))

    with pytest.raises(BadInputError, match=r"crib and .*exam share 2 examples: .* its own exam proves nothing"):
        check_data(test, crib, SIGNATURE)


def test_missing_and_untracked_data_are_refused(root: Path) -> None:
    untracked = root / "data" / "untracked"
    write_data(untracked, images(2), np.zeros(2, np.int64))

    with pytest.raises(BadInputError, match="is not tracked by DVC"):
        check_data(untracked, None, SIGNATURE)
    with pytest.raises(BadInputError, match="does not exist"):
        check_data(root / "data" / "nowhere", None, SIGNATURE)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            ("float32", (-1, 3, 32, 32)),
            r"array 'image' is float32\[3, 16, 16\] per example, .* is float32\[3, 32, 32\]",
        ),
        (("float32", (-1, 3, -1)), r"array 'image' is float32\[3, 16, 16\] per example, .* is float32\[3, -1\]"),
        (("uint8", (-1, 3, 16, 16)), r"array 'image' is float32\[3, 16, 16\] per example, .* is uint8\[3, 16, 16\]"),
    ],
)
@pytest.mark.parametrize("which", ["test", "calibration"])
def test_data_that_the_model_does_not_take_are_refused(
    which: str, spec: tuple[str, tuple[int, ...]], said: str, root: Path
) -> None:
    wanted = SIGNATURE.model_copy(update={"inputs": (TensorSpec(name="image", dtype=spec[0], shape=spec[1]),)})
    fitting = np.zeros((2, *(abs(size) for size in spec[1][1:])), spec[0])
    sets = {"test": data(root, "fitting", fitting), "calibration": data(root, "fitting-too", fitting + 1)}
    sets[which] = data(root, "not-fitting", images(6))

    with pytest.raises(BadInputError, match=rf"not-fitting/shard-00000\.npz: {said}"):
        check_data(sets["test"], sets["calibration"], wanted)


def test_any_size_fits_a_dynamic_dimension(root: Path) -> None:
    spec = TensorSpec(name="image", dtype="float32", shape=(-1, 3, -1, -1))
    check_data(data(root, "dynamic", images(6)), None, Signature(inputs=(spec,), outputs=SIGNATURE.outputs))


@pytest.mark.parametrize("which", ["test", "calibration"])
def test_a_fault_in_the_last_shard_is_found_before_any_model_runs(which: str, root: Path) -> None:
    sets = {"test": data(root, f"whole-{which}", images(6)), "calibration": data(root, "whole", images(4, seed=1))}
    broken = images(6, seed=2)
    directory = data(root, f"broken-{which}", broken)
    broken[5, 0, 0, 0] = np.nan
    np.savez(directory / "shard-00001.npz", image=broken[3:], target=np.zeros(3, np.int64))
    track(directory)
    sets[which] = directory

    with pytest.raises(BadInputError, match=rf"broken-{which}/shard-00001\.npz: array 'image' holds NaN"):
        check_data(sets["test"], sets["calibration"], SIGNATURE)


def test_only_the_test_set_needs_a_target(root: Path) -> None:
    directory = root / "data" / "unlabelled"
    directory.mkdir(parents=True)
    np.savez(directory / "shard-00000.npz", image=images(4, seed=3))
    track(directory)

    assert check_data(data(root, "labelled", images(6)), directory, SIGNATURE).calibration is not None
    with pytest.raises(BadInputError, match=r"unlabelled/shard-00000\.npz has no array 'target'"):
        check_data(directory, None, SIGNATURE)


def test_a_directory_without_examples_is_refused(root: Path) -> None:
    directory = root / "data" / "empty"
    directory.mkdir(parents=True)
    track(directory)

    with pytest.raises(BadInputError, match=r"data/empty holds no \.npz shards"):
        check_data(directory, None, SIGNATURE)
