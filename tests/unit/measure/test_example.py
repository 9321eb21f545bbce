from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.measure import example as module
from slipway.measure.arrays import Array, read_arrays
from slipway.measure.example import Example, ExampleDraw, load_example, save_example


def drawn(path: Path, target: Array, *, classes: int = 10, batch: int = 7, floats: int = 1) -> Example:
    """What is chosen where every input holds its example's number; ``classes`` are those of the outputs."""
    count = len(target)
    inputs = np.repeat(np.arange(count, dtype=np.float32)[:, np.newaxis], floats, axis=1)
    outputs = np.zeros((count, classes), np.float32)
    draw = ExampleDraw(count)
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        draw.add({"x": inputs[part]}, {"y": outputs[part]}, target[part])
    assert draw.save(path) is None
    return load_example(path)


def numbers(found: Example) -> list[int]:
    return found.inputs["x"][:, 0].astype(int).tolist()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "example.npz"


def test_every_class_that_there_is_room_for_is_among_them(path: Path) -> None:
    """Sorted by class, as data sets often are."""
    found = drawn(path, np.repeat(np.arange(10), 20))

    assert found.target.tolist() == list(range(8))
    assert [number // 20 for number in numbers(found)] == found.target.tolist()


def test_fewer_classes_are_there_equally_often(path: Path) -> None:
    found = drawn(path, np.repeat(np.arange(3), 50))

    assert sorted(np.bincount(found.target.astype(int)).tolist()) == [2, 3, 3]


def test_a_rare_class_is_found(path: Path) -> None:
    target = np.zeros(500, np.int64)
    target[321] = 1

    assert 321 in numbers(drawn(path, target))


def test_without_classes_they_lie_evenly(path: Path) -> None:
    found = drawn(path, np.linspace(0, 1, 80).astype(np.float32))

    assert numbers(found) == [0, 10, 20, 30, 40, 50, 60, 70]
    np.testing.assert_allclose(found.target, np.linspace(0, 1, 80)[::10])


@pytest.mark.parametrize("target", [np.arange(5), np.arange(5) / 10], ids=["classes", "numbers"])
def test_a_small_set_is_kept_whole(path: Path, target: Array) -> None:
    assert numbers(drawn(path, target)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("target", [np.arange(200) % 4, np.linspace(0, 1, 200)], ids=["classes", "numbers"])
def test_how_the_set_is_cut_into_batches_changes_no_byte(tmp_path: Path, target: Array) -> None:
    files = [tmp_path / f"{batch}.npz" for batch in (1, 32, 200)]
    for file in files:
        drawn(file, target, batch=int(file.stem))

    assert len({file.read_bytes() for file in files}) == 1


def test_fewer_are_kept_where_they_are_large_and_none_where_one_is_too_large(tmp_path: Path) -> None:
    target = np.arange(20) % 10
    large = tmp_path / "large.npz"

    found = drawn(large, target, floats=500_000, batch=4)  # 2 MB each

    assert numbers(found) == [0, 1, 2]
    assert large.stat().st_size <= module.MOST_BYTES
    draw = ExampleDraw(4)
    draw.add({"x": np.zeros((4, 1_250_000), np.float32)}, {"y": np.zeros((4, 2), np.float32)}, np.arange(4) % 2)
    assert draw.save(tmp_path / "none.npz") == "no example is kept: one takes 5.0 MB, more than 4"
    assert not (tmp_path / "none.npz").exists()


def test_what_an_engine_answered_is_kept_by_name(path: Path) -> None:
    arrays = {name: np.arange(4, dtype=np.float32).reshape(2, 2) + index for index, name in enumerate("abc")}
    save_example(path, Example({"a": arrays["a"], "b": arrays["b"]}, {"c": arrays["c"]}, np.array([3, 4])))

    assert list(read_arrays(path)) == ["input:a", "input:b", "output:c", "target"]
    found = load_example(path)
    np.testing.assert_array_equal(found.inputs["b"], arrays["b"])
    np.testing.assert_array_equal(found.outputs["c"], arrays["c"])
    assert found.target.tolist() == [3, 4]
