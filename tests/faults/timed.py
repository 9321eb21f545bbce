"""ONNX engine files of a known amount of work, and how they take part in a timing session."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from slipway.engines import engine
from slipway.engines.base import BuildOptions
from slipway.measure.plan import Participant
from slipway.records import Signature, TensorSpec
from slipway.stores.datasets import write_shards

ENGINE = "onnxruntime"
WIDTH = 256
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, WIDTH)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, WIDTH)),),
)


def built(folder: Path, layers: int) -> Path:
    """An engine file of so many matrix products, one after another; each costs the same."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5 for _ in range(layers)]
    names = ["x", *(f"h{layer}" for layer in range(1, layers)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in ("x", "y")]
    constants = [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "products", ports[:1], ports[1:], constants)
    source, out = folder / f"source-{layers}.onnx", folder / f"engine-{layers}.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), source)
    engine(ENGINE).build(source, out, BuildOptions(variant="fp32", signature=SIGNATURE))
    return out


def participant(
    file: Path, name: str, module: str = "slipway.steps.timed_engine", before: tuple[str, ...] = ()
) -> Participant:
    """The engine file in a worker process that runs ``module``, which takes the arguments ``before`` first."""
    data = file.parent / "data"
    if not data.exists():
        inputs = np.random.default_rng(1).standard_normal((8, WIDTH)).astype(np.float32)
        write_shards(data, {"x": inputs}, np.zeros(8, np.int64), shard_size=8)
    return Participant(name, (sys.executable, "-m", module, *before, ENGINE, str(file), str(data)))
