"""How much memory a test set takes that is far larger than the memory there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from slipway.stores.datasets import Batch, write_batches

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT_BYTES = 16_000_000
SHARD = 50
COLOURS, CLASSES, SIDE = 3, 4, 48


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of ONNX Runtime that answers with more than it is given: a score per pixel and class."""
    dtype, path = TensorProto.FLOAT, tmp_path_factory.mktemp("engine") / "engine.onnx"
    weight = helper.make_tensor("w", dtype, (CLASSES, COLOURS, 1, 1), np.linspace(-1, 1, CLASSES * COLOURS))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["map"])],
        "segmenter",
        [helper.make_tensor_value_info("image", dtype, ("N", COLOURS, SIDE, SIDE))],
        [helper.make_tensor_value_info("map", dtype, ("N", CLASSES, SIDE, SIDE))],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    return path


def shards(count: int) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        image = rng.normal(size=(SHARD, COLOURS, SIDE, SIDE)).astype(np.float32)
        yield Batch({"image": image}, rng.normal(size=(SHARD, CLASSES, SIDE, SIDE)).astype(np.float32))


def peak_bytes(engine: Path, folder: Path, count: int) -> tuple[int, int]:
    """Peak memory of validating over so many shards, and the size of these."""
    data = folder / "data"
    size = sum(path.stat().st_size for path in write_batches(data, shards(count), SHARD))
    command = [sys.executable, "-m", "tests.integration.peak_memory", engine, data, folder / "objects"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    examples, peak = map(int, done.stdout.split())
    assert examples == count * SHARD
    return peak, size


def test_a_test_set_ten_times_larger_than_the_memory_allowed_keeps_the_peak_flat(
    segmenter: Path, tmp_path: Path
) -> None:
    small, _ = peak_bytes(segmenter, tmp_path / "small", count=3)
    large, size = peak_bytes(segmenter, tmp_path / "large", count=50)

    assert size > 10 * LIMIT_BYTES
    assert large - small < LIMIT_BYTES
