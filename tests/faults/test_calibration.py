"""Calibration on inputs that are not those of the task: int8 runs, is fast, and answers wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from slipway.config import AccuracyParams, CalibrationParams
from slipway.decisions.gates import accuracy_gate
from slipway.engines import engine
from slipway.engines.base import BuildOptions
from slipway.exports.onnx import export_onnx
from slipway.exports.program import export_program
from slipway.records import Built, CandidateSpec, DataSource, Predictions, Signature, TensorSpec, Validated, Verdict
from slipway.steps.validate import evaluate_reference, validate
from slipway.stores.datasets import write_shards
from slipway.stores.objects import ObjectStore
from slipway.variants.int8_static import quantize_onnx_static

SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 1, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, 10)),),
)
POLICY = AccuracyParams(metric="top1", max_drop=0.02)
N_TEST = 1000
TOO_DARK = 0.02


@dataclass(frozen=True)
class Trained:
    """A classifier of real digits in ONNX, its test set, and the images that it was trained on."""

    objects: ObjectStore
    onnx: Path
    data: DataSource
    images: np.ndarray
    reference: Predictions

    def validated(self, runtime: str, calibration: np.ndarray, *, give_up: bool = False) -> Validated:
        """What comes of int8-static on ``runtime``, its ranges taken from these images."""
        batches = [{"image": part} for part in np.split(calibration, len(calibration) // 32)]
        spec = CandidateSpec(target="x86", variant="int8-static", engine=runtime)
        with self.objects.new_dir() as folder:
            int8, out = folder / "int8.onnx", folder / f"engine{engine(runtime).suffix}"
            quantize_onnx_static(self.onnx, int8, lambda: iter(batches), CalibrationParams())
            options = engine(runtime).build(int8, out, BuildOptions(variant=spec.variant, signature=SIGNATURE))
            built = Built(spec=spec, artifact=self.objects.put(out), options=options, engine_version="")
        drop = POLICY.max_drop if give_up else None
        return validate(self.objects, built, self.data, self.reference, POLICY, 1, drop)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    objects, (pixels, labels) = ObjectStore(folder / "objects"), load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    module = train(images[N_TEST:], labels[N_TEST:])
    example = {"image": images[:2]}
    export_program(module, example, SIGNATURE, folder / "program.pt2")
    export_onnx(module, example, SIGNATURE, folder / "model.onnx")
    data = data_set(folder / "test", images[:N_TEST], labels[:N_TEST])
    eager = Built(
        spec=CandidateSpec(target="x86", variant="fp32", engine="torch"),
        artifact=objects.put(folder / "program.pt2"),
        options={},
        engine_version="",
    )
    reference = evaluate_reference(objects, eager, data, POLICY, 1)
    assert reference.value > 0.85
    return Trained(objects, folder / "model.onnx", data, images[N_TEST:], reference)


def train(images: np.ndarray, labels: np.ndarray) -> torch.nn.Module:
    """Three convolutions, trained for some seconds."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 16, 3), torch.nn.Conv2d(16, 32, 3), torch.nn.Conv2d(32, 32, 3)]
    activated = [module for layer in layers for module in (layer, torch.nn.ReLU())]
    module = torch.nn.Sequential(*activated, torch.nn.Flatten(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    inputs, wanted = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(16):
        for batch in torch.split(torch.randperm(len(inputs)), 32):
            optimizer.zero_grad()
            cross_entropy(module(inputs[batch]), wanted[batch]).backward()
            optimizer.step()
    return module.eval()


def data_set(directory: Path, images: np.ndarray, labels: np.ndarray) -> DataSource:
    write_shards(directory, {"image": images}, labels, shard_size=250)
    return DataSource(path=str(directory), md5="d" * 32 + ".dir", files=4, size_bytes=1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_ranges_from_images_of_the_task_keep_the_accuracy(runtime: str, trained: Trained) -> None:
    accuracy = trained.validated(runtime, trained.images[:256], give_up=True).accuracy

    assert (accuracy.n, accuracy.available) == (N_TEST, N_TEST)
    assert accuracy_gate(POLICY, accuracy).verdict is Verdict.PASS


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_ranges_from_images_that_are_too_dark_fail_the_accuracy_gate(runtime: str, trained: Trained) -> None:
    done = trained.validated(runtime, TOO_DARK * trained.images[:256])

    decision = accuracy_gate(POLICY, done.accuracy)
    assert decision.verdict is Verdict.FAIL, decision.reasons
    assert done.accuracy.drop > 0.3
    assert done.accuracy.flips is not None
    assert done.accuracy.flips > 300
    assert done.accuracy.worst_class is not None


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_such_a_candidate_is_given_up_after_tens_of_examples(runtime: str, trained: Trained) -> None:
    accuracy = trained.validated(runtime, TOO_DARK * trained.images[:256], give_up=True).accuracy

    assert accuracy.n <= 64
    assert accuracy.available == N_TEST
    assert accuracy_gate(POLICY, accuracy).verdict is Verdict.FAIL
