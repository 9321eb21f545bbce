from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slipway.errors import BadInputError
from slipway.stores.conversion import BATCH_SIZE, InputSpec, Stream, function, images, npz, parquet

IMAGE = InputSpec("image")


def joined(stream: Stream, name: str = "image") -> tuple[np.ndarray, np.ndarray]:
    found = list(stream.batches)
    return np.concatenate([b.inputs[name] for b in found]), np.concatenate(
        [b.target for b in found if b.target is not None]
    )


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("x", InputSpec("x")),
        ("x:float32", InputSpec("x", "float32")),
        ("x:float32:3x8x8", InputSpec("x", "float32", (3, 8, 8))),
        ("x::8", InputSpec("x", None, (8,))),
    ],
)
def test_an_input_is_spelt_with_dtype_and_shape(text: str, spec: InputSpec) -> None:
    assert InputSpec.parse(text) == spec


@pytest.mark.parametrize("text", ["x:colour", "x:float32:3,8"])
def test_another_spelling_is_refused_with_the_right_one(text: str) -> None:
    with pytest.raises(BadInputError, match="image:float32:3x32x32"):
        InputSpec.parse(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A red and a grey image of 4 x 2 pixels (width x height)."""
    Image.new("RGB", (4, 2), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (4, 2), 51).save(tmp_path / "b.png")
    (tmp_path / "labels.csv").write_text("file,label\na.png,7\nb.png,3\n")
    return tmp_path


def test_images_become_colours_between_0_and_1_channels_first(folder: Path) -> None:
    stream = images(folder, folder / "labels.csv", IMAGE, "label")
    pixels, target = joined(stream)

    assert stream.total == 2
    assert (pixels.shape, pixels.dtype) == ((2, 3, 2, 4), np.float32)
    assert pixels[0, :, 0, 0].tolist() == [1, 0, 0]
    assert pixels[1, :, 1, 3].tolist() == pytest.approx([0.2] * 3)
    assert target.tolist() == [7, 3]


def test_a_shape_makes_images_grey_and_resizes_them(folder: Path) -> None:
    Image.new("RGB", (8, 8), (0, 0, 0)).save(folder / "b.png")
    pixels, _ = joined(images(folder, folder / "labels.csv", InputSpec("image", None, (1, 4, 4)), "label"))

    assert pixels.shape == (2, 1, 4, 4)


def test_images_of_two_sizes_are_refused_by_name(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "b.png")

    with pytest.raises(BadInputError, match=r"b\.png has shape .* give one size"):
        joined(images(folder, folder / "labels.csv", IMAGE, "label"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("name,label\na.png,1\n", "none called 'file'"),
        ("file,label\na.png,cat\n", "line 2: 'cat' is no number; number the classes"),
        ("file,label\nmissing.png,1\n", r"cannot read image .*missing\.png"),
    ],
)
def test_unusable_labels_are_told_with_their_place(folder: Path, labels: str, message: str) -> None:
    (folder / "labels.csv").write_text(labels)

    with pytest.raises(BadInputError, match=message):
        joined(images(folder, folder / "labels.csv", IMAGE, "label"))


def write_parquet(path: Path, **columns: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_is_read_in_pieces(tmp_path: Path) -> None:
    n = BATCH_SIZE + 1
    write_parquet(tmp_path / "0.parquet", x=[float(i) for i in range(n)], y=list(range(n)))
    write_parquet(tmp_path / "1.parquet", x=[-1.0], y=[-1])
    stream = parquet(tmp_path, [InputSpec("x", "float32", (1,))], "y")
    batches = list(stream.batches)

    assert stream.total == n + 1
    assert [len(batch) for batch in batches] == [BATCH_SIZE, 1, 1]
    assert (batches[0].inputs["x"].shape, batches[0].inputs["x"].dtype) == ((BATCH_SIZE, 1), np.float32)


@pytest.mark.parametrize("value", [[1.0, 2.0, 3.0, 4.0], [[1.0, 2.0], [3.0, 4.0]]], ids=["flat", "nested"])
def test_lists_in_parquet_become_arrays(tmp_path: Path, value: list[Any]) -> None:
    path = write_parquet(tmp_path / "a.parquet", x=[value, value], y=[0, 1])
    arrays, _ = joined(parquet(path, [InputSpec("x", None, (2, 2))], "y"), "x")

    assert arrays.tolist() == [[[1, 2], [3, 4]]] * 2


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0, None], "'x' holds nulls"),
        ([[1.0], [1.0, 2.0]], "lists of different lengths"),
        ([[1.0, 2.0, 3.0]] * 2, r"shape \(3,\) per example and cannot become \(2, 2\)"),
    ],
)
def test_unusable_columns_are_told(tmp_path: Path, x: list[Any], message: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", x=x, y=[0, 1])

    with pytest.raises(BadInputError, match=message):
        joined(parquet(path, [InputSpec("x", None, (2, 2))], "y"), "x")


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")

    with pytest.raises(BadInputError, match=r"cannot read .*a\.parquet"):
        parquet(tmp_path, [IMAGE], "y")


def test_npz_of_any_names_and_sizes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(300), label=np.arange(300), unused=[1])
    stream = npz(tmp_path, [InputSpec("x", "float32")], "label")
    arrays, target = joined(stream, "x")

    assert (len(arrays), arrays.dtype, target[-1]) == (300, np.float32, 299)


def test_a_missing_array_is_told_with_those_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=[1], y=[1])

    with pytest.raises(BadInputError, match=r"a\.npz has no 'image', only x, y"):
        joined(npz(tmp_path, [IMAGE], "y"))


def test_no_file_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no \.npz file"):
        npz(tmp_path, [IMAGE], "y")


def test_a_float_never_becomes_an_integer(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=[1.5], y=[1])

    with pytest.raises(BadInputError, match="'x' is float64 and cannot become int64"):
        joined(npz(tmp_path, [InputSpec("x", "int64")], "y"), "x")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "mydata.py"
    sys.modules.pop("mydata", None)


def test_a_function_of_the_project_is_called(module: Path) -> None:
    module.write_text("def load():\n    for i in range(3):\n        yield {'x': [[i, i]]}, [i]\n")
    arrays, target = joined(function("mydata:load", [InputSpec("x", "float32")]), "x")

    assert (arrays.shape, target.tolist()) == ((3, 2), [0, 1, 2])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "cannot import 'mydata:load'"),
        ("def load():\n    raise OSError('no disk')\n    yield", "OSError: no disk"),
        ("def load():\n    yield 1", "must yield pairs"),
    ],
)
def test_an_unusable_function_is_told(module: Path, code: str, message: str) -> None:
    module.write_text(code)

    with pytest.raises(BadInputError, match=message):
        joined(function("mydata:load", []), "x")
