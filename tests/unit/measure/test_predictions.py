from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.errors import BadInputError, RejectedError
from slipway.measure.arrays import Array, Arrays, RowReader, write_arrays
from slipway.measure.predictions import (
    PredictionsReader,
    load_predictions,
    save_predictions,
    written_predictions,
)

Batches = list[tuple[Arrays, Array]]


def write(path: Path, batches: Batches) -> Path:
    with written_predictions(path) as add:
        for outputs, target in batches:
            add(outputs, target)
    return path


def examples(count: int) -> tuple[dict[str, Array], Array]:
    rng = np.random.default_rng(0)
    outputs: dict[str, Array] = {
        "logits": rng.normal(size=(count, 3)).astype(np.float32),
        "map": rng.integers(9, size=(count, 2, 2)).astype(np.uint8),
        "total": rng.normal(size=count),
    }
    return outputs, rng.integers(3, size=count)


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [4, 4, 2]])
def test_predictions_written_batch_by_batch_have_the_bytes_of_those_written_whole(
    tmp_path: Path, sizes: list[int]
) -> None:
    outputs, target = examples(10)
    save_predictions(tmp_path / "whole.npz", outputs, target)
    batches: Batches = [
        ({name: array[end - size : end] for name, array in outputs.items()}, target[end - size : end])
        for end, size in zip(np.cumsum(sizes), sizes, strict=True)
    ]
    assert write(tmp_path / "cut.npz", batches).read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.npz", "whole.npz"]


def test_an_engine_may_answer_in_one_buffer_and_in_any_order_of_memory(tmp_path: Path) -> None:
    buffer = np.zeros((2, 3))
    with written_predictions(tmp_path / "p.npz") as add:
        for value in (1.0, 2.0):
            buffer[:] = value
            add({"y": buffer, "z": np.arange(6.0).reshape(3, 2).T}, np.zeros(2))

    outputs, _ = load_predictions(tmp_path / "p.npz")
    assert outputs["y"][:, 0].tolist() == [1, 1, 2, 2]
    assert outputs["z"][:2].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_predictions_are_read_some_examples_at_a_time(tmp_path: Path) -> None:
    outputs, target = examples(10)
    save_predictions(tmp_path / "p.npz", outputs, target)

    with PredictionsReader(tmp_path / "p.npz") as reader:
        assert (reader.rows, reader.outputs) == (10, {"logits": (10, 3), "map": (10, 2, 2), "total": (10,)})
        parts = [reader.answers(size) for size in (3, 7)]

    np.testing.assert_array_equal(np.concatenate([found["map"] for found, _ in parts]), outputs["map"])
    np.testing.assert_array_equal(np.concatenate([found for _, found in parts]), target)
    np.testing.assert_array_equal(load_predictions(tmp_path / "p.npz", most=4)[0]["logits"], outputs["logits"][:4])
    assert len(load_predictions(tmp_path / "p.npz", most=99)[1]) == 10


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], BadInputError, "empty set"),
        ([({"y": np.zeros(0)}, np.zeros(0))], BadInputError, "empty set"),
        ([({"y": np.zeros(3)}, np.zeros(2))], RejectedError, "not batch first"),
        ([({"y": np.zeros((2, 3))}, np.zeros(2)), ({"y": np.zeros((2, 4))}, np.zeros(2))], RejectedError, "change"),
        ([({"y": np.zeros(2)}, np.zeros(2)), ({"z": np.zeros(2)}, np.zeros(2))], RejectedError, "change"),
        ([({"y": np.zeros(2)}, np.zeros(2)), ({"y": np.zeros(2, "f4")}, np.zeros(2))], RejectedError, "change"),
    ],
)
def test_what_cannot_be_put_together_is_refused_and_leaves_no_file(
    batches: Batches, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        write(tmp_path / "p.npz", batches)
    assert list(tmp_path.iterdir()) == []


def test_predictions_survive_the_disk_in_order_and_with_names_that_clash(tmp_path: Path) -> None:
    outputs: dict[str, Array] = {"z/logits": np.ones((2, 3), np.float16), "target": np.arange(2), "file": np.zeros(2)}
    save_predictions(tmp_path / "p.npz", outputs, np.array([5, 6]))
    found, target = load_predictions(tmp_path / "p.npz")
    assert list(found) == list(outputs)
    assert all(found[name].dtype == outputs[name].dtype for name in outputs)
    assert target.tolist() == [5, 6]


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_file_that_holds_no_arrays_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(BadInputError, match="cannot read arrays"):
        load_predictions(tmp_path / "p.npz")


def test_a_missing_file_and_a_file_without_target_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot read arrays"):
        load_predictions(tmp_path / "none.npz")
    write_arrays(tmp_path / "other.npz", {"y": np.zeros(2)})
    with pytest.raises(BadInputError, match="not outputs and a target"):
        load_predictions(tmp_path / "other.npz")


def test_a_file_whose_bytes_changed_is_bad_input(tmp_path: Path) -> None:
    outputs, target = examples(1000)
    save_predictions(tmp_path / "p.npz", outputs, target)
    content = bytearray((tmp_path / "p.npz").read_bytes())
    content[1000] ^= 1
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(BadInputError, match="cannot read arrays"):
        load_predictions(tmp_path / "p.npz")


@pytest.mark.parametrize("arrays", [{"y": np.zeros(2), "z": np.zeros(3)}, {"y": np.float32(1)}, {}])
def test_arrays_that_are_no_rows_of_the_same_number_are_bad_input(arrays: Arrays, tmp_path: Path) -> None:
    write_arrays(tmp_path / "p.npz", arrays)
    with pytest.raises(BadInputError, match="no rows of the same number"):
        RowReader(tmp_path / "p.npz")


def test_pickled_objects_are_refused_both_ways(tmp_path: Path) -> None:
    objects = np.array([object()], dtype=object)
    with pytest.raises(ValueError, match="Object arrays"):
        save_predictions(tmp_path / "p.npz", {"y": objects}, np.zeros(1))
    np.savez(tmp_path / "p.npz", target=objects)
    with pytest.raises(BadInputError, match="cannot read arrays"):
        load_predictions(tmp_path / "p.npz")
