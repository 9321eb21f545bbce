"""One architecture on its way through the steps of a release: registered with MLflow, exported, made smaller, built."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from slipway.config import QatParams
from slipway.engines import engine
from slipway.engines.base import BuildOptions
from slipway.records import Built, CandidateSpec, DataSource, Exported, Failure, Form, ModelSource, VariantFile
from slipway.steps.build import build, reference_of, refusal
from slipway.steps.export import export
from slipway.steps.fetch import make_program
from slipway.steps.outcomes import definite
from slipway.steps.quantize import quantize
from slipway.stores.datasets import write_shards
from slipway.stores.mlflow_connection import mlflow_signature
from slipway.stores.mlmodel import read_mlmodel
from slipway.stores.objects import ObjectStore, digest_of
from tests.contract.architectures.models import Architecture, registered

N_TEST, N_CALIBRATION = 8, 64
DEFINITE_EXPORT, DEFINITE_QUANTIZE, DEFINITE_BUILD = definite(export), definite(quantize), definite(build)


@dataclass(frozen=True)
class Journey:
    """What the steps make of one architecture, each file made when it is first asked for, and once."""

    architecture: Architecture
    objects: ObjectStore
    source: ModelSource
    test: DataSource
    calibration: DataSource

    @functools.cache  # noqa: B019 - one instance per test run
    def exported(self, form: Form) -> Exported | Failure:
        """The fp32 model as ``form``."""
        return DEFINITE_EXPORT(self.objects, self.source, form, self.test)

    @functools.cache  # noqa: B019 - one instance per test run
    def smaller(self, variant: str, form: Form) -> VariantFile | Failure:
        """The variant as ``form``."""
        fp32 = self.exported(form)
        learning = {"training": self.calibration, "qat": QatParams(epochs=1)}
        return DEFINITE_QUANTIZE(self.objects, self.source, fp32, variant, self.test, self.calibration, **learning)

    def built(self, variant: str, name: str) -> Built | Failure:
        """The engine file of the variant, or the reason why there is none."""
        spec = CandidateSpec(target="x86", variant=variant, engine=name)
        if refused := refusal(spec):
            return refused
        file, reference = self.smaller(variant, engine(name).form), reference_of(self.source, spec.target)
        options = BuildOptions(variant=variant, signature=self.source.signature, batch=(1, 2))
        return DEFINITE_BUILD(self.objects, spec, file, options, reference, self.test)


def begin(architecture: Architecture, folder: Path) -> Journey:
    """The architecture as the registry holds it and as it is fetched from there, with data of its own to test on."""
    objects = ObjectStore(folder / "objects")
    _log(architecture, folder / "logged")
    found = read_mlmodel(folder / "logged")
    source = ModelSource(
        uri=f"models:/{architecture.name}/1",
        name=architecture.name,
        version="1",
        format=found.format,
        digest=digest_of(found.file),
        program=make_program(found, objects, folder),
        signature=found.signature,
    )
    test = _write(architecture, folder / "test", N_TEST, seed=1)
    return Journey(architecture, objects, source, test, _write(architecture, folder / "calibration", N_CALIBRATION, 2))


def _log(architecture: Architecture, directory: Path) -> None:
    """Logged as MLflow does by default (pt2), or with control flow as the only format that MLflow has for it."""
    import mlflow.pytorch

    module = registered(architecture)
    scripted = isinstance(module, torch.jit.ScriptModule)
    example = list(architecture.arrays(2, seed=0).values())
    # It warns of pickles, which a ScriptModule is none of.
    with _told_errors_alone("mlflow.pytorch"), warnings.catch_warnings():
        # nn.LSTM reassigns its own list of weights in forward; the export keeps the parameters.
        warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights", UserWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        mlflow.pytorch.save_model(
            module,
            directory,
            signature=mlflow_signature(architecture.signature),
            input_example=None if scripted else example if len(example) > 1 else example[0],
            pip_requirements=["torch"],
            serialization_format="pickle" if scripted else "pt2",
        )


@contextlib.contextmanager
def _told_errors_alone(name: str) -> Iterator[None]:
    """Let this logger warn of nothing in the block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _write(architecture: Architecture, directory: Path, count: int, seed: int) -> DataSource:
    """A data set of one shard; what reads it here does not ask DVC."""
    write_shards(directory, architecture.arrays(count, seed), np.zeros(count, np.int64), count)
    return DataSource(path=str(directory), md5="d" * 32 + ".dir", files=1, size_bytes=1)
