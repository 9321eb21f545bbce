from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.errors import BadInputError
from slipway.steps.convert import convert, open_source
from slipway.stores.conversion import InputSpec
from slipway.stores.datasets import batches

X = InputSpec("x", "float32")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.savez(tmp_path / "all.npz", x=np.arange(10).reshape(5, 2), target=np.arange(5))
    return tmp_path / "all.npz"


def test_what_was_converted_is_streamed(source: Path, tmp_path: Path) -> None:
    told: list[int] = []
    stream = open_source("npz", str(source), [X], "target", None)
    written = convert(stream, tmp_path / "out", 2, told.append)

    assert [path.name for path in written] == [f"shard-0000{index}.npz" for index in range(3)]
    assert sum(told) == 5
    found = list(batches(tmp_path / "out", ["x"], 2))
    assert np.concatenate([batch.inputs["x"] for batch in found]).tolist() == np.arange(10).reshape(5, 2).tolist()


def test_it_can_be_repeated_and_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    def bytes_of() -> list[bytes]:
        stream = open_source("npz", str(source), [X], "target", None)
        return [path.read_bytes() for path in convert(stream, tmp_path / "out", 2, lambda _: None)]

    assert bytes_of() == bytes_of()


def test_a_directory_of_other_files_is_never_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(BadInputError, match="holds other files than shards"):
        convert(open_source("npz", str(source), [X], "target", None), tmp_path, 2, lambda _: None)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_inputs_have_to_be_named(source: Path) -> None:
    with pytest.raises(BadInputError, match="give --input"):
        open_source("npz", str(source), [], "target", None)


def test_images_need_labels(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="need --labels"):
        open_source("images", str(tmp_path), [X], "target", None)
