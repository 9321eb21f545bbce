"""A tiny model on its way through the steps, each step really run, once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from slipway.config import QatParams
from slipway.engines.base import BuildOptions
from slipway.exports.program import export_program
from slipway.records import (
    Built,
    CandidateSpec,
    DataSource,
    Exported,
    Form,
    ModelSource,
    Predictions,
    Signature,
    TensorSpec,
    VariantFile,
)
from slipway.steps.build import build, reference_of
from slipway.steps.export import export
from slipway.steps.quantize import quantize
from slipway.steps.validate import evaluate_reference
from slipway.stores.datasets import write_shards
from slipway.stores.objects import ObjectStore
from tests.contract.engines.tiny import Residual
from tests.unit.steps.records import ACCURACY

EXAMPLES = 60
WRONG_LABELS = 6
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 3, 16, 16)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, 10)),),
)


@dataclass(frozen=True)
class Material:
    """The fetched model and its data; what the steps make of them, made once."""

    objects: ObjectStore
    module: torch.nn.Module
    source: ModelSource
    data: DataSource
    calibration: DataSource

    @functools.cache  # noqa: B019 - one instance per test run
    def exported(self, form: Form) -> Exported:
        """The fp32 model as ``form``."""
        return export(self.objects, self.source, form, self.data)

    @functools.cache  # noqa: B019
    def variant(self, variant: str, form: Form) -> VariantFile:
        """The variant as ``form``."""
        fp32, learning = self.exported(form), {"training": self.calibration, "qat": QatParams(epochs=1)}
        return quantize(self.objects, self.source, fp32, variant, self.data, self.calibration, **learning)

    @functools.cache  # noqa: B019
    def built(self, variant: str, engine: str, form: Form) -> Built:
        """The engine file of the variant."""
        return self.build(CandidateSpec(target="x86", variant=variant, engine=engine), self.variant(variant, form))

    def build(self, spec: CandidateSpec, file: VariantFile) -> Built:
        """An engine file, built anew."""
        options = BuildOptions(variant=spec.variant, signature=self.source.signature)
        return build(self.objects, spec, file, options, self.reference, self.data)

    @functools.cached_property
    def reference(self) -> Built:
        """The model as it is."""
        return reference_of(self.source, "x86")

    @functools.cached_property
    def predictions(self) -> Predictions:
        """The reference's answers."""
        return evaluate_reference(self.objects, self.reference, self.data, ACCURACY, threads=1)


def make_material(folder: Path) -> Material:
    """A residual CNN whose program is stored, 60 test examples of which 6 are labelled wrongly, 32 for calibration."""
    objects, module = ObjectStore(folder / "objects"), tiny_module()
    program = folder / "program.pt2"
    export_program(module, {"image": images(2)}, SIGNATURE, program)
    artifact = objects.put(program)
    source = ModelSource(
        uri="models:/tiny/1",
        name="tiny",
        version="1",
        format="pt2",
        digest=artifact.digest,
        program=artifact,
        signature=SIGNATURE,
    )
    labels = answers(module, images(EXAMPLES)).argmax(1)
    labels[:WRONG_LABELS] = (labels[:WRONG_LABELS] + 1) % 10
    test = write_data(folder / "data" / "test", images(EXAMPLES), labels)
    calibration = write_data(folder / "data" / "calibration", images(32, seed=1), np.zeros(32, np.int64))
    return Material(objects, module, source, test, calibration)


def tiny_module() -> Residual:
    """The residual CNN of the engines' contract, its batch-norm statistics warmed up."""
    torch.manual_seed(0)
    module = Residual()
    with torch.no_grad():
        for _ in range(8):
            module(torch.randn(16, 3, 16, 16))
    return module.eval()


def images(count: int, seed: int = 0) -> np.ndarray:
    """Random images whose channels have random means, so that the model sees several classes in them."""
    rng = np.random.default_rng(seed)
    means, noise = rng.standard_normal((count, 3, 1, 1)), rng.standard_normal((count, 3, 16, 16))
    return (3 * means + noise).astype(np.float32)


def answers(module: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """What the module answers."""
    with torch.no_grad():
        outputs: np.ndarray = module(torch.from_numpy(inputs)).numpy()
    return outputs


def write_data(directory: Path, inputs: np.ndarray, target: np.ndarray) -> DataSource:
    """Write a data set of two shards; what reads it does not ask DVC."""
    write_shards(directory, {"image": inputs}, target, shard_size=(len(target) + 1) // 2)
    return DataSource(path=str(directory), md5="d" * 32 + ".dir", files=2, size_bytes=1)
