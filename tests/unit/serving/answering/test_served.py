"""A served engine: with which threads and streams it is opened, what warms it, and what it counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from slipway.engines import engine
from slipway.engines.base import BuildOptions, RunOptions, Session
from slipway.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSession
from slipway.records import Artifact, Evidence, Form, Signature, TensorSpec, Throughput
from slipway.serving.answering.served import WARM_UP_CALLS, ServedModel, Statistics
from slipway.stores.objects import digest_of
from tests.fakes.evidence import TIMING, evidence
from tests.unit.serving.conftest import evidence_of
from tests.unit.steps.material import Material, images

NAME = "tiny.x86"


def artifact_of(material: Material) -> Artifact:
    """The tiny model as ONNX Runtime's file."""
    return material.built("fp32", "onnxruntime", Form.ONNX).artifact


def served(material: Material, found: Evidence) -> ServedModel:
    """The tiny model on ONNX Runtime, opened."""
    return ServedModel(NAME, "1", found, material.objects.path(artifact_of(material)))


@pytest.fixture(scope="module")
def found(material: Material) -> Evidence:
    """Its evidence; built before a test watches the engine, since a build runs it too."""
    return evidence_of(material, "onnxruntime")


def with_best(found: Evidence, threads: int, streams: int) -> Evidence:
    """Evidence whose best rate was that of these threads and streams; for the best latency ``threads`` is 3."""
    best = Throughput(batch=8, threads=threads, streams=streams, examples_per_s=900.0)
    timing = TIMING.model_copy(update={"throughput": (best,), "best_throughput": best})
    return found.model_copy(update={"timing": timing, "options": found.options | {"threads": 3}})


@pytest.fixture
def loaded(found: Evidence, monkeypatch: pytest.MonkeyPatch) -> list[RunOptions]:
    """The options that ONNX Runtime's engine was opened with."""
    seen: list[RunOptions] = []
    load: Callable[[OnnxRuntimeEngine, Path, RunOptions], Session] = OnnxRuntimeEngine.load

    def spied(self: OnnxRuntimeEngine, path: Path, options: RunOptions) -> Session:
        seen.append(options)
        return load(self, path, options)

    monkeypatch.setattr(OnnxRuntimeEngine, "load", spied)
    return seen


@pytest.mark.parametrize("shared", [True, False])
def test_streams_are_opened_as_measured_and_one_by_one_where_they_share_no_weights(
    material: Material, found: Evidence, monkeypatch: pytest.MonkeyPatch, loaded: list[RunOptions], shared: bool
) -> None:
    if not shared:
        monkeypatch.delattr(OnnxRuntimeEngine, "shares_weights")
    model = served(material, with_best(found, threads=1, streams=2))
    assert loaded == ([RunOptions(threads=1, streams=2)] if shared else [RunOptions(threads=1)] * 2)
    assert (model.streams, model.cold) == (2, None)
    assert model.infer({"image": images(2)})["logits"].shape == (2, 10)
    model.close()


def test_one_stream_is_opened_with_the_threads_of_the_best_latency(
    material: Material, found: Evidence, loaded: list[RunOptions]
) -> None:
    for one in (with_best(found, threads=1, streams=1), found, found.model_copy(update={"timing": None})):
        model = served(material, one)
        assert model.streams == 1
        model.close()
    assert loaded == [RunOptions(threads=3), RunOptions(threads=1), RunOptions(threads=1)]


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signature]:
    """A convolution of kernel 9 over a free length, as ONNX Runtime's file."""
    folder = tmp_path_factory.mktemp("convolution")
    wave, filtered = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 1, size])
        for name, size in (("wave", "length"), ("filtered", "shorter"))
    )
    kernel = onnx.numpy_helper.from_array(np.ones((1, 1, 9), np.float32), "kernel")
    node = onnx.helper.make_node("Conv", ["wave", "kernel"], ["filtered"])
    graph = onnx.helper.make_graph([node], "convolution", [wave], [filtered], [kernel])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "source.onnx")
    signature = Signature(
        inputs=(TensorSpec(name="wave", dtype="float32", shape=(-1, 1, -1)),),
        outputs=(TensorSpec(name="filtered", dtype="float32", shape=(-1, 1, -1)),),
    )
    built = folder / "engine.onnx"
    engine("onnxruntime").build(folder / "source.onnx", built, BuildOptions(variant="fp32", signature=signature))
    return built, signature


def test_a_model_that_takes_no_length_of_one_is_served_cold(convolution: tuple[Path, Signature]) -> None:
    path, signature = convolution
    model = ServedModel(NAME, "1", evidence(digest_of(path), signature=signature), path)
    assert model.cold == "wave has free dimensions beside the batch: [-1, 1, -1]"
    assert model.infer({"wave": np.zeros((2, 1, 20), np.float32)})["filtered"].shape == (2, 1, 12)
    model.close()


def test_a_warm_up_that_fails_is_no_failure(
    material: Material, found: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a TensorRT profile whose least batch is above one."""
    calls: list[int] = []
    load: Callable[[OnnxRuntimeEngine, Path, RunOptions], Session] = OnnxRuntimeEngine.load

    def opened(self: OnnxRuntimeEngine, path: Path, options: RunOptions) -> Session:
        session = load(self, path, options)
        infer = session.infer

        def pair(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            calls.append(len(arrays["image"]))
            if len(arrays["image"]) < 2:
                raise RuntimeError("the profile's least batch is 2")
            return infer(arrays)

        monkeypatch.setattr(session, "infer", pair)
        return session

    monkeypatch.setattr(OnnxRuntimeEngine, "load", opened)
    model = served(material, found)
    assert model.cold == "it did not answer a batch of zeros: RuntimeError"
    assert model.infer({"image": images(2)})["logits"].shape == (2, 10)
    assert calls == [1, 2]
    model.close()


@pytest.mark.parametrize("streams", [1, 2])
def test_every_stream_is_warmed(
    material: Material, found: Evidence, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    monkeypatch.delattr(OnnxRuntimeEngine, "shares_weights")
    calls: dict[int, int] = {}
    run = OnnxRuntimeSession._run

    def counted(self: OnnxRuntimeSession, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls[id(self)] = calls.get(id(self), 0) + 1
        return run(self, arrays)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", counted)
    model = served(material, with_best(found, threads=1, streams=streams))
    assert list(calls.values()) == [WARM_UP_CALLS] * streams
    model.close()


class Slow(int):
    """A number whose addition lets another thread run."""

    def __radd__(self, other: int) -> int:
        time.sleep(0.002)
        return other + int(self)


def test_no_count_is_lost_between_threads() -> None:
    statistics = Statistics()

    def count() -> None:
        for _ in range(5):
            statistics.ran(Slow(2), Slow(3), Slow(4))
            statistics.answered(Slow(5))
            statistics.failed(Slow(6))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    totals = [statistics.queue, statistics.infer, statistics.success, statistics.fail]
    assert [one.told() for one in totals] == [{"count": 20, "ns": 20 * ns} for ns in (3, 4, 5, 6)]
    assert statistics.examples == 40
