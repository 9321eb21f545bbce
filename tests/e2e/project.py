"""A project as small as a release allows: a classifier in a registry, its data under DVC, and the parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from dvc.repo import Repo

from slipway.records import Signature, TensorSpec
from slipway.stores.datasets import write_shards
from slipway.stores.tracking import track
from slipway.wiring import workshop

NAME = "tiny"
MODEL_URI = f"models:/{NAME}/1"
ENGINE = f"{NAME}.x86"
TEST_DATA = Path("data/test")
PARAMS = {
    "model": MODEL_URI,
    "data": {"test": str(TEST_DATA)},
    "accuracy": {"metric": "top1", "max_drop": 0.1},
    "variants": ["fp32", "int8-dynamic"],
    "targets": {"x86": {"engines": ["torch", "onnxruntime"]}},
}
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 64)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, 5)),),
)


def make_project(root: Path) -> None:
    """Register the model and track the data; the reference answers all of it rightly."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 5)).eval()
    x = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    with torch.no_grad():
        target = module(torch.from_numpy(x)).argmax(dim=1).numpy()
    Repo.init(str(root), no_scm=True).close()
    write_shards(root / TEST_DATA, {"x": x}, target, shard_size=100)
    track(root / TEST_DATA)
    workshop(root).registry.log_model(module, SIGNATURE, {"x": x[:2]}, NAME)
    write_params(root)


def write_params(root: Path, **changes: Any) -> None:
    """Write params.yaml with these sections in place of its own."""
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS | changes), encoding="utf-8")


def target(**settings: Any) -> dict[str, Any]:
    """The targets section with one target, on ONNX Runtime alone unless told."""
    return {"x86": {"engines": ["onnxruntime"]} | settings}
