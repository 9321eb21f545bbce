"""Model directories as MLflow logs them, made without MLflow."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

from slipway.records import Signature, TensorSpec


def write_model(directory: Path, signature: Signature, model: Any, *, scripted: bool = False) -> Path:
    """A directory with ``MLmodel`` and ``data/model.pth``: pickled, or traced to TorchScript with 2 examples."""
    data = directory / "data"
    data.mkdir(parents=True)
    if scripted:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself, which models still come as
            inputs = tuple(torch.zeros(2, *spec.shape[1:]) for spec in signature.inputs)
            torch.jit.save(torch.jit.trace(model, inputs), data / "model.pth")  # type: ignore[no-untyped-call]
    else:
        torch.save(model, data / "model.pth")
    sides = {"inputs": signature.inputs, "outputs": signature.outputs}
    content = {
        "flavors": {"pytorch": {"model_data": "data"}},
        "signature": {side: json.dumps([_spelt(spec) for spec in specs]) for side, specs in sides.items()},
    }
    (directory / "MLmodel").write_text(yaml.safe_dump(content), encoding="utf-8")
    return directory


def _spelt(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "type": "tensor", "tensor-spec": {"dtype": spec.dtype, "shape": list(spec.shape)}}
