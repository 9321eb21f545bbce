"""What the int8 variants promise, on a network trained on digits, and on the same one made hard to quantize."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slipway.config import AccuracyParams
from slipway.decisions.gates import accuracy_gate
from slipway.engines import engine
from slipway.engines.base import BuildOptions, RunOptions
from slipway.examples import digits
from slipway.examples.resnet import ResNet
from slipway.examples.training import Schedule, train_classifier
from slipway.exports.program import export_program
from slipway.records import (
    Accuracy,
    Built,
    CandidateSpec,
    DataSource,
    Exported,
    Form,
    ModelSource,
    Predictions,
    VariantFile,
    Verdict,
)
from slipway.steps.build import build, reference_of
from slipway.steps.export import export
from slipway.steps.quantize import quantize
from slipway.steps.validate import evaluate_reference, validate
from slipway.stores.datasets import write_shards
from slipway.stores.objects import ObjectStore
from tests.integration import qdq_in_torch

pytestmark = pytest.mark.integration

ENGINES = ("onnxruntime", "openvino")
POLICY = AccuracyParams(metric="top1", max_drop=0.01)
LOUDNESS = 160.0
AGREEMENT = 0.995
ROUNDS, CALLS = 30, 20
SIGNATURE = digits.EXAMPLE.signature


@dataclass(frozen=True)
class Project:
    """A model with its data, and what the steps make of it, made once."""

    objects: ObjectStore
    source: ModelSource
    data: DataSource
    calibration: DataSource

    @cache  # noqa: B019 - one instance per test run
    def exported(self) -> Exported:
        return export(self.objects, self.source, Form.ONNX, self.data)

    @cache  # noqa: B019
    def variant(self, name: str) -> VariantFile:
        return quantize(self.objects, self.source, self.exported(), name, self.data, self.calibration)

    @cache  # noqa: B019
    def built(self, variant: str, on: str) -> Built:
        spec = CandidateSpec(target="x86", variant=variant, engine=on)
        options = BuildOptions(variant=variant, signature=SIGNATURE)
        return build(self.objects, spec, self.variant(variant), options, reference_of(self.source, "x86"), self.data)

    @cache  # noqa: B019
    def predictions(self) -> Predictions:
        return evaluate_reference(self.objects, reference_of(self.source, "x86"), self.data, POLICY, 1)

    def accuracy(self, variant: str, on: str) -> Accuracy:
        built = self.built(variant, on)
        return validate(self.objects, built, self.data, self.predictions(), POLICY, 1).accuracy


@pytest.fixture(scope="module")
def splits() -> dict[str, digits.Split]:
    return digits.load_splits()


def untrained() -> ResNet:
    """Deeper than the example's, so that two layers are not a third of the work."""
    return ResNet(channels_in=1, widths=(32, 64, 128), blocks=2)


@pytest.fixture(scope="module")
def trained(splits: dict[str, digits.Split]) -> ResNet:
    def optimizer(module: ResNet) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)

    return train_classifier(untrained, optimizer, splits["train"], Schedule(4, 32, 0.1), lambda *_: None)


def project(folder: Path, module: nn.Module, splits: dict[str, digits.Split]) -> Project:
    data = {}
    for name, split in {"test": splits["test"], "calibration": splits["train"]}.items():
        write_shards(folder / name, {"image": split.inputs}, split.labels, 1000)
        data[name] = DataSource(path=str(folder / name), md5="d" * 32 + ".dir", files=1, size_bytes=1)
    export_program(module, {"image": splits["test"].inputs[:2]}, SIGNATURE, folder / "program.pt2")
    objects = ObjectStore(folder / "objects")
    program = objects.put(folder / "program.pt2")
    named = {"uri": "models:/digits/1", "name": "digits", "version": "1", "format": "pt2"}
    source = ModelSource(**named, digest=program.digest, program=program, signature=SIGNATURE)
    return Project(objects, source, data["test"], data["calibration"])


@pytest.fixture(scope="module")
def plain(trained: ResNet, splits: dict[str, digits.Split], tmp_path_factory: pytest.TempPathFactory) -> Project:
    return project(tmp_path_factory.mktemp("plain"), trained, splits)


@pytest.fixture(scope="module")
def hard(trained: ResNet, splits: dict[str, digits.Split], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same function, but one layer answers in an eighth of its channels 160 times as loud; the next undoes it.

    A ReLU lies between, which a positive factor passes through.
    """
    module = untrained()
    module.load_state_dict(trained.state_dict())
    module.eval()
    block = module.layer2[0]
    with torch.no_grad():
        block.bn1.weight[::8] *= LOUDNESS
        block.bn1.bias[::8] *= LOUDNESS
        block.conv2.weight[:, ::8] /= LOUDNESS
    return project(tmp_path_factory.mktemp("hard"), module, splits)


@pytest.mark.parametrize("variant", ["int8-static", "int8-mixed"])
@pytest.mark.parametrize("on", ENGINES)
def test_an_engine_answers_as_pytorch_does_with_the_files_own_rounding(
    on: str, variant: str, plain: Project, splits: dict[str, digits.Split]
) -> None:
    images, path = splits["test"].inputs, plain.objects.path(plain.variant(variant).artifact)
    expected = qdq_in_torch.answers(path, images).argmax(1)
    with engine(on).load(plain.objects.path(plain.built(variant, on).artifact), RunOptions()) as session:
        found = session.infer({"image": images})["logits"].argmax(1)

    agreement = (found == expected).mean()
    assert agreement >= AGREEMENT


def test_that_reference_rounds_what_the_file_rounds(plain: Project, splits: dict[str, digits.Split]) -> None:
    """Else fp32's own answers would agree as well: its scores differ from them, those of the engine do not."""
    images = splits["test"].inputs
    paths = [
        plain.objects.path(artifact) for artifact in (plain.variant("int8-static").artifact, plain.exported().artifact)
    ]
    rounded, fp32 = (qdq_in_torch.answers(path, images) for path in paths)
    built = plain.objects.path(plain.built("int8-static", "onnxruntime").artifact)
    with engine("onnxruntime").load(built, RunOptions()) as session:
        found = session.infer({"image": images})["logits"]

    far, near = (float(np.linalg.norm(found - other)) for other in (fp32, rounded))
    assert near < far / 2


@pytest.mark.parametrize("on", ENGINES)
def test_int8_mixed_passes_a_gate_that_int8_static_fails(on: str, hard: Project) -> None:
    static, mixed = (hard.accuracy(variant, on) for variant in ("int8-static", "int8-mixed"))
    gates = [accuracy_gate(POLICY, accuracy) for accuracy in (static, mixed)]
    assert [gate.verdict for gate in gates] == [Verdict.FAIL, Verdict.PASS], gates


def test_the_layers_around_the_outliers_go_back_and_no_others_and_the_way_is_recorded(hard: Project) -> None:
    made = hard.variant("int8-mixed")
    weights = onnx.load(hard.objects.path(made.artifact)).graph.initializer
    in_fp32 = {one.name for one in weights if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1}

    assert in_fp32 == {"layer2.0.conv1.weight", "layer2.0.conv2.weight"}
    assert any(note.startswith("layers ranked by error per microsecond of onnxruntime ") for note in made.notes)
    assert [point.layers for point in made.restored] == [0, 1, 2]
    assert made.restored[-1].error < 0.05 < made.restored[0].error
    assert all(point.latency_us is not None for point in made.restored)


def test_int8_mixed_is_faster_than_bf16(hard: Project) -> None:
    """On the engine that runs both, in turns, so that what else runs on the host slows both."""
    paths = [hard.objects.path(hard.built(variant, "openvino").artifact) for variant in ("bf16", "int8-mixed")]
    image = {"image": np.zeros((1, *SIGNATURE.inputs[0].shape[1:]), np.float32)}
    ratios = []
    with (
        engine("openvino").load(paths[0], RunOptions()) as bf16,
        engine("openvino").load(paths[1], RunOptions()) as int8,
    ):
        for _ in range(ROUNDS):
            seconds = []
            for session in (bf16, int8):
                start = time.perf_counter()
                for _ in range(CALLS):
                    session.infer(image)
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[0] / seconds[1])
    speedup = float(np.median(ratios))
    assert speedup > 1, f"{speedup:.2f} times as fast"
