"""Export the fp32 model into one form, and compare the file with eager PyTorch on real inputs."""

from __future__ import annotations

from pathlib import Path

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.engines.torch_eager import load_module
from slipway.errors import RejectedError
from slipway.exports.calling import TRACED_BATCH
from slipway.exports.onnx import export_onnx
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.measure.parity import ParityAccumulator, require_close
from slipway.records import DataSource, Exported, Form, ModelSource, Parity, Signature
from slipway.steps.edges import answers_to, cases
from slipway.steps.wrong_operator import in_export
from slipway.stores.datasets import examples
from slipway.stores.objects import ObjectStore

EXPORTERS = {Form.PROGRAM: export_program, Form.TORCHSCRIPT: export_torchscript, Form.ONNX: export_onnx}
FILE_NAMES = {Form.PROGRAM: "model.pt2", Form.TORCHSCRIPT: "model.ts", Form.ONNX: "model.onnx"}
# The engine that runs a freshly exported file as it is, before any engine's own optimisation.
CHECKED_BY = {Form.PROGRAM: "torch", Form.TORCHSCRIPT: "torchscript", Form.ONNX: "onnxruntime"}


def export(objects: ObjectStore, source: ModelSource, form: Form, data: DataSource) -> Exported:
    """Write the model as ``form`` and check it on examples of ``data`` at the edges of its dynamic dimensions.

    Raises:
        RejectedError: the model cannot be exported, or the export answers differently from eager PyTorch; the first
            operator that differs is named.
    """
    program = objects.path(source.program)
    sample = examples(Path(data.path), [spec.name for spec in source.signature.inputs], TRACED_BATCH)
    with objects.new_dir() as folder:
        out = folder / FILE_NAMES[form]
        exporter = EXPORTERS[form](load_module(program), sample, source.signature, out)
        parity = _check(program, out, form, data, source.signature)
        return Exported(form=form, artifact=objects.put(out), parity=parity, exporter=exporter)


def _check(program: Path, out: Path, form: Form, data: DataSource, signature: Signature) -> Parity:
    parity = ParityAccumulator()
    with (
        engine("torch").load(program, RunOptions()) as eager,
        engine(CHECKED_BY[form]).load(out, RunOptions()) as session,
    ):
        for case in cases(eager, data, signature):
            answers = answers_to(case, session, "export")
            try:
                require_close(case.reference, answers)
            except RejectedError as error:
                told = in_export(program, out, form, case.inputs, signature)
                raise RejectedError(f"export is wrong at {case.where}: {error}; {told}") from error
            parity.add(case.reference, answers)
    return parity.result()
