from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.errors import BadInputError
from slipway.records import TensorSpec
from slipway.stores.mlmodel import read_mlmodel

X = {"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3, -1]}}
Y = {"name": "y", "type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}


class Bomb:
    """Unpickling it fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the file was unpickled",))


def _model(directory: Path, inputs: list[Any] | None, *, flavor: str = "pytorch", file: str = "model.pt2") -> Path:
    signature = None if inputs is None else {"inputs": json.dumps(inputs), "outputs": json.dumps([Y]), "params": None}
    content = {"flavors": {flavor: {"model_data": "data"}}, "signature": signature}
    (directory / "data").mkdir()
    (directory / "data" / file).write_bytes(pickle.dumps(Bomb()))
    (directory / "MLmodel").write_text(yaml.safe_dump(content))
    return directory


def test_signature_and_exported_program_are_read(tmp_path: Path) -> None:
    model = read_mlmodel(_model(tmp_path, [X]))

    assert (model.format, model.file) == ("pt2", tmp_path / "data" / "model.pt2")
    assert model.signature.inputs == (TensorSpec(name="x", dtype="float32", shape=(-1, 3, -1)),)
    assert model.signature.outputs == (TensorSpec(name="y", dtype="int64", shape=(-1,)),)


def test_a_bare_pickle_is_told_without_unpickling(tmp_path: Path) -> None:
    assert read_mlmodel(_model(tmp_path, [X], file="model.pth")).format == "pickle"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # such models exist, however old their format
def test_torch_archives_are_told_apart_by_their_code(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Linear(3, 1)
    file = _model(tmp_path, [X], file="model.pth") / "data" / "model.pth"

    torch.save(module, file)
    assert read_mlmodel(tmp_path).format == "pickle"
    torch.jit.trace(module, torch.zeros(2, 3)).save(file)  # type: ignore[no-untyped-call]
    assert read_mlmodel(tmp_path).format == "torchscript"


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "no signature of its inputs"),
        ([{"name": "x", "type": "double"}], "columns, not tensors"),
        ([{key: value for key, value in X.items() if key != "name"}], "unnamed tensor"),
        ([X | {"tensor-spec": {"dtype": "float32"}}], "tensor 'x' of its signature has no shape"),
    ],
)
def test_a_useless_signature_is_refused_with_how_to_sign(tmp_path: Path, inputs: list[Any] | None, said: str) -> None:
    with pytest.raises(BadInputError, match=rf"{said}.*log it with mlflow\.models\.ModelSignature"):
        read_mlmodel(_model(tmp_path, inputs))


def test_other_flavors_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot read"):
        read_mlmodel(tmp_path)
    _model(tmp_path, [X], flavor="sklearn")
    with pytest.raises(BadInputError, match="logged as sklearn, not as pytorch"):
        read_mlmodel(tmp_path)


def test_a_model_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"neither model\.pt2 nor model\.pth"):
        read_mlmodel(_model(tmp_path, [X], file="other.bin"))
