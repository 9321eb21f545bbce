"""What a downloaded MLflow model directory holds, told from its files without running any of its code."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Literal

import yaml

from slipway.errors import BadInputError
from slipway.records import Record, Signature, TensorSpec

HOW_TO_SIGN = (
    "log it with mlflow.models.ModelSignature(inputs=Schema([TensorSpec(dtype, (-1, ...), name=...)]), "
    "outputs=Schema([TensorSpec(dtype, (-1, ...), name=...)]))"
)


class RegistryModel(Record):
    """A PyTorch model as the registry holds it: its format, its file and its named tensors."""

    format: Literal["pt2", "torchscript", "pickle"]
    file: Path
    signature: Signature


def read_mlmodel(directory: Path) -> RegistryModel:
    """Read ``MLmodel`` and find the model file; nothing is unpickled. Messages call the model "it": name it before.

    Raises:
        BadInputError: not a PyTorch model, no model file, or no signature of named tensors.
    """
    content = load_mlmodel(directory)
    flavors = content.get("flavors") or {}
    if "pytorch" not in flavors:
        raise BadInputError(
            f"it was logged as {', '.join(flavors) or 'nothing'}, not as pytorch; log it with mlflow.pytorch.log_model"
        )
    data = directory / flavors["pytorch"].get("model_data", "data")
    signature = content.get("signature") or {}
    form, file = _model_file(data)
    return RegistryModel(
        format=form,
        file=file,
        signature=Signature(
            inputs=_tensors("inputs", signature.get("inputs")),
            outputs=_tensors("outputs", signature.get("outputs")),
        ),
    )


def load_mlmodel(directory: Path) -> dict[str, Any]:
    """The ``MLmodel`` file as a dictionary.

    Raises:
        BadInputError: it is missing or not YAML.
    """
    path = directory / "MLmodel"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise BadInputError(f"cannot read {path}: {' '.join(str(error).split())}; log the model again") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path} holds no mapping; log the model again")
    return content


def _model_file(data: Path) -> tuple[Literal["pt2", "torchscript", "pickle"], Path]:
    program, weights = data / "model.pt2", data / "model.pth"
    if program.is_file():
        return "pt2", program
    if not weights.is_file():
        raise BadInputError(f"its directory {data.name} holds neither model.pt2 nor model.pth; log the model again")
    return ("torchscript" if _is_torchscript(weights) else "pickle"), weights


def _is_torchscript(path: Path) -> bool:
    """TorchScript is a zip archive that carries its own code, at NAME/code/; a pickle carries none."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())


def _tensors(side: str, text: str | None) -> tuple[TensorSpec, ...]:
    if not text:
        raise BadInputError(f"it has no signature of its {side}; {HOW_TO_SIGN}")
    return tuple(_tensor(side, entry) for entry in json.loads(text))


def _tensor(side: str, entry: dict[str, Any]) -> TensorSpec:
    if entry.get("type") != "tensor":
        raise BadInputError(f"its signature's {side} are columns, not tensors; {HOW_TO_SIGN}")
    name, spec = entry.get("name"), entry.get("tensor-spec") or {}
    if not name:
        raise BadInputError(f"its signature has an unnamed tensor in the {side}; {HOW_TO_SIGN}")
    if not spec.get("dtype") or not spec.get("shape"):
        raise BadInputError(f"tensor {name!r} of its signature has no shape; {HOW_TO_SIGN}")
    return TensorSpec(name=name, dtype=spec["dtype"], shape=tuple(spec["shape"]))
