"""Engine files as small as ONNX Runtime opens them, whose answers tell which one gave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from slipway.measure.example import Example, save_example
from slipway.records import Artifact, Evidence
from slipway.serving.answering.local_engine import LocalEngine, Origin
from slipway.stores.objects import digest_of
from slipway.stores.registry import CHAMPION, Registry, evidence_sha256
from tests.fakes.evidence import evidence, release
from tests.fakes.registry import FakeRegistry

NAME = "tiny.x86"
X = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)


def answer(factor: float, x: np.ndarray = X) -> np.ndarray:
    """What the engine of this factor answers: in both columns the factor times each example's sum."""
    found: np.ndarray = factor * x @ np.ones((4, 2), np.float32)
    return found.astype(np.float32)


def engine_file(folder: Path, factor: float) -> Path:
    """The engine of this factor."""
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 4), ("y", 2))
    )
    weights = onnx.numpy_helper.from_array(np.full((4, 2), factor, np.float32), "weights")
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "weights"], ["y"])], "m", [x], [y], [weights])
    path = folder / f"times-{factor:g}.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def example_file(folder: Path, factor: float) -> Path:
    """The stored example of the engine of this factor."""
    folder.mkdir(parents=True, exist_ok=True)
    save_example(folder / "example.npz", Example({"x": X}, {"y": answer(factor)}, np.zeros(2, np.int64)))
    return folder / "example.npz"


def local(folder: Path, order: int, factor: float, **origin: Any) -> LocalEngine:
    """The engine of this factor as it was fetched, as the version of the same number as its order, without example."""
    place = folder / str(order)
    place.mkdir()
    path = engine_file(place, factor)
    return LocalEngine(
        order=order,
        name=NAME,
        version=str(order),
        evidence=evidence(digest_of(path)),
        path=path,
        origin=Origin(**origin),
    )


def register(registry: Registry, folder: Path, factor: float, **changes: Any) -> Evidence:
    """Register the engine of this factor as the next version, with its example; ``changes`` are to its evidence."""
    path = engine_file(folder, factor)
    example = example_file(folder / f"example-{factor:g}", factor)
    kept = Artifact(digest=digest_of(example), name=example.name, size_bytes=example.stat().st_size)
    found = evidence(digest_of(path), attachments=(kept,), **changes)
    attachments = {evidence_sha256(found): [example]}
    recorded = registry.record_release(release(found, model="tiny"), {str(found.digest): path}, [], attachments)
    registry.register(NAME, recorded, found)
    return found


def move(registry: FakeRegistry, version: str, alias: str = CHAMPION) -> None:
    """Let the alias name the version."""
    registry.models[NAME].aliases[alias] = version
