"""Export the fp32 model into one form, and compare the file with eager PyTorch on real inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slipway.engines import engine
from slipway.engines.base import Arrays, RunOptions
from slipway.engines.torch_eager import load_module
from slipway.exports.onnx import export_onnx
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.measure.parity import check_export
from slipway.records import DataSource, Exported, Form, ModelSource
from slipway.stores.datasets import examples
from slipway.stores.objects import ObjectStore

EXPORTERS = {Form.PROGRAM: export_program, Form.TORCHSCRIPT: export_torchscript, Form.ONNX: export_onnx}
FILE_NAMES = {Form.PROGRAM: "model.pt2", Form.TORCHSCRIPT: "model.ts", Form.ONNX: "model.onnx"}
# The engine that runs a freshly exported file as it is, before any engine's own optimisation.
CHECKED_BY = {Form.PROGRAM: "torch", Form.TORCHSCRIPT: "torchscript", Form.ONNX: "onnxruntime"}
CHECKED_BATCHES = (1, 3)


def export(objects: ObjectStore, source: ModelSource, form: Form, data: DataSource) -> Exported:
    """Write the model as ``form`` and check it at batch sizes 1 and 3 on examples of ``data``.

    Raises:
        RejectedError: the model cannot be exported, or the export answers differently from eager PyTorch.
    """
    names = [spec.name for spec in source.signature.inputs]
    sample = examples(Path(data.path), names, max(CHECKED_BATCHES))
    module = load_module(objects.path(source.program))
    with objects.new_dir() as folder:
        out = folder / FILE_NAMES[form]
        exporter = EXPORTERS[form](module, first(sample, 2), source.signature, out)
        reference = _run("torch", objects.path(source.program), sample)
        candidate = _run(CHECKED_BY[form], out, sample)
        parity = check_export(reference, candidate).model_copy(update={"n": sum(CHECKED_BATCHES)})
        return Exported(form=form, artifact=objects.put(out), parity=parity, exporter=exporter)


def first(arrays: Arrays, count: int) -> dict[str, np.ndarray]:
    """The first ``count`` examples of a batch."""
    return {name: array[:count] for name, array in arrays.items()}


def _run(name: str, path: Path, sample: Arrays) -> dict[str, np.ndarray]:
    batches = [first(sample, size) for size in CHECKED_BATCHES]
    with engine(name).load(path, RunOptions()) as session:
        answers = [session.infer(batch) for batch in batches]
    return {
        f"{output}@batch{size}": answer[output]
        for size, answer in zip(CHECKED_BATCHES, answers, strict=True)
        for output in answer
    }
