from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.errors import BadInputError
from slipway.stores.datasets import Batch, batches, count, examples, overlap, shards, write_batches, write_shards

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_shards(tmp_path / "test", {"x": X}, Y, shard_size=4)
    return tmp_path / "test"


def _one_shard(directory: Path, **arrays: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / "shard-00000.npz", **arrays)
    return directory


def test_shards_are_written_in_order(directory: Path) -> None:
    assert [path.name for path in shards(directory)] == [f"shard-0000{index}.npz" for index in range(3)]


def test_the_same_arrays_give_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    again = write_shards(tmp_path / "again", {"x": X.copy()}, Y.copy(), shard_size=4)

    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in shards(directory)]
    with zipfile.ZipFile(again[0]) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_writing_again_replaces_the_whole_directory(directory: Path) -> None:
    assert len(write_shards(directory, {"x": X}, Y, shard_size=10)) == 1
    assert [path.name for path in directory.parent.iterdir()] == ["test"]


def test_batches_hold_every_example_once_in_order(directory: Path) -> None:
    found = list(batches(directory, ["x"], 3))

    assert [len(batch) for batch in found] == [3, 1, 3, 1, 2]
    np.testing.assert_array_equal(np.concatenate([batch.inputs["x"] for batch in found]), X)
    np.testing.assert_array_equal(np.concatenate([batch.target for batch in found if batch.target is not None]), Y)


def test_each_batch_tells_the_shard_it_came_from(directory: Path) -> None:
    assert [batch.path for batch in batches(directory, ["x"], 100)] == shards(directory)


def test_whoever_keeps_a_batch_keeps_no_more_of_its_shard(directory: Path) -> None:
    kept = [batch.inputs["x"] for batch in batches(directory, ["x"], 3)]
    assert [array.base for array in kept] == [None] * len(kept)


def test_examples_are_counted_without_reading_them(directory: Path) -> None:
    assert count(directory) == 10
    np.savez_compressed(directory / "shard-00001.npz", x=X, target=np.zeros((7, 3), order="F"))
    assert count(directory) == 13
    (directory / "shard-00001.npz").write_bytes(b"not a zip")
    with pytest.raises(BadInputError, match=r"cannot read shard .*shard-00001\.npz"):
        count(directory)


def test_targets_are_left_out_when_not_asked_for(tmp_path: Path) -> None:
    directory = _one_shard(tmp_path / "calibration", x=X)

    assert [batch.target for batch in batches(directory, ["x"], 10, with_target=False)] == [None]


def test_examples_are_the_first_ones_across_shards(directory: Path) -> None:
    np.testing.assert_array_equal(examples(directory, ["x"], 6)["x"], X[:6])
    np.testing.assert_array_equal(examples(directory, ["x"], 99)["x"], X)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "no array 'target', only x"),
        ({"target": Y}, "no array 'x', only target"),
        ({"x": X, "target": Y[:9]}, r"differ in length \(x: 10, target: 9\)"),
        ({"x": np.where(X == 3, np.nan, X), "target": Y}, "'x' holds NaN or infinity"),
        ({"x": np.where(X == 3, np.inf, X), "target": Y}, "'x' holds NaN or infinity"),
        ({"x": X[:0], "target": Y[:0]}, "'x' holds no examples"),
        ({"x": np.float32(1), "target": Y}, "'x' holds no examples"),
        ({"x": np.array([object()] * 10), "target": Y}, "cannot read shard"),
    ],
)
def test_a_bad_shard_is_named_with_its_array(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    directory = _one_shard(tmp_path / "test", **arrays)

    with pytest.raises(BadInputError, match=said) as raised:
        list(batches(directory, ["x"], 4))
    assert "shard-00000.npz" in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X, "target": Y, "id": Y}, "make them alike"),
        ({"x": X.astype(np.float64), "target": Y}, "'x' is float64"),
        ({"x": X[:, :1], "target": Y}, "'x' is float32"),
    ],
)
def test_shards_must_be_alike(directory: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(directory / "shard-00009.npz", **arrays)

    with pytest.raises(BadInputError, match=said) as raised:
        list(batches(directory, ["x"], 4))
    assert "shard-00009.npz" in str(raised.value)


def test_a_file_that_is_no_archive_is_named(directory: Path) -> None:
    (directory / "shard-00001.npz").write_bytes(b"not a zip")

    with pytest.raises(BadInputError, match=r"cannot read shard .*shard-00001\.npz"):
        list(batches(directory, ["x"], 4))


def test_a_directory_without_shards_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"holds no \.npz shards"):
        shards(tmp_path)


def test_nothing_is_written_when_lengths_differ(directory: Path) -> None:
    before = [path.read_bytes() for path in shards(directory)]
    with pytest.raises(BadInputError, match="differ in length"):
        write_shards(directory, {"x": X}, Y[:3], shard_size=4)

    assert [path.read_bytes() for path in shards(directory)] == before


def test_overlap_counts_shared_examples_by_content(directory: Path, tmp_path: Path) -> None:
    other = np.concatenate([X[[7, 2]], X[:3] + 100])
    write_shards(tmp_path / "calibration", {"x": other}, np.zeros(5), shard_size=5)

    assert overlap(directory, tmp_path / "calibration", ["x"]) == 2
    assert overlap(tmp_path / "calibration", tmp_path / "calibration", ["x"]) == 5


@pytest.mark.parametrize("sizes", [[10], [3, 3, 4], [1] * 10, [9, 1]])
def test_a_stream_gives_the_same_shards_however_it_is_cut(directory: Path, tmp_path: Path, sizes: list[int]) -> None:
    ends = np.cumsum(sizes)
    stream = (Batch({"x": X[end - size : end]}, Y[end - size : end]) for size, end in zip(sizes, ends, strict=True))

    written = write_batches(tmp_path / "streamed", stream, shard_size=4)

    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in shards(directory)]


def test_an_empty_stream_is_refused_and_replaces_nothing(directory: Path) -> None:
    with pytest.raises(BadInputError, match="would hold no examples"):
        write_batches(directory, [], shard_size=4)
    assert len(shards(directory)) == 3


def test_batches_that_differ_in_shape_are_refused(tmp_path: Path) -> None:
    stream = [Batch({"x": X}, Y), Batch({"x": X[:, :1]}, Y)]

    with pytest.raises(BadInputError, match=r"'x' is float32\[1\] per example, in the first float32\[2\]"):
        write_batches(tmp_path / "data", stream, shard_size=100)
    assert not (tmp_path / "data").exists()
