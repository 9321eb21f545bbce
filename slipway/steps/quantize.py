"""Make one variant of the model in one form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from slipway.config import CalibrationParams, QatParams
from slipway.engines.base import Arrays
from slipway.engines.torch_eager import load_module
from slipway.errors import BadInputError, UnsupportedError
from slipway.exports.calling import leaves_in_order
from slipway.exports.onnx import export_onnx, translated
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.records import DataSource, Exported, Form, ModelSource, Restored, VariantFile
from slipway.steps.export import FILE_NAMES
from slipway.steps.operator_times import operator_times
from slipway.steps.progress import meter
from slipway.stores.datasets import Array, batches, count, examples
from slipway.stores.objects import ObjectStore
from slipway.variants import variant as kind_of
from slipway.variants.fp16_onnx import reduce_onnx
from slipway.variants.int8_dynamic import quantize_linears, quantize_onnx_dynamic, told
from slipway.variants.int8_mixed import Mixed, quantize_onnx_mixed
from slipway.variants.int8_program import quantize_program_static
from slipway.variants.int8_qat import Trainee, fine_tune, quantize_tuned
from slipway.variants.int8_static import quantize_onnx_static
from slipway.variants.reduced_float import Reduced, to_reduced

if TYPE_CHECKING:
    import torch

CALIBRATION_BATCH = 8  # all activations of a batch are in memory at once: about 350 MB of a ResNet-50 at 224 x 224
MIN_AND_MAX = CalibrationParams()
TRACED_EXAMPLES = 2
WATCHED_EXAMPLES = 8  # on which fp16 looks for values beyond its range
AS_EXPORTED = {("bf16", Form.ONNX), *(("fp32", form) for form in Form)}


def quantize(  # noqa: PLR0913, PLR0917 - what each variant reads is keyed and handed on by itself
    objects: ObjectStore,
    source: ModelSource,
    exported: Exported,
    variant: str,
    data: DataSource,
    calibration: DataSource | None,
    params: CalibrationParams = MIN_AND_MAX,
    training: DataSource | None = None,
    qat: QatParams | None = None,
) -> VariantFile:
    """Make ``variant`` from the exported fp32 file; ``data`` gives the examples that tracing needs.

    ``training`` and ``qat`` are read by int8-qat alone.

    Raises:
        UnsupportedError: the variant makes no sense in this form or for this model.
        RejectedError: the variant cannot be made of this model, or its answers are no numbers.
        BadInputError: the variant needs calibration or training data and there is none.
    """
    kind = kind_of(variant)
    if exported.form not in kind.forms:
        raise UnsupportedError(f"{variant} does not exist as {exported.form}: {kind.summary}")
    if kind.needs_calibration and calibration is None:
        raise BadInputError(f"{variant} needs calibration data: set data.calibration to a DVC-tracked directory")
    if kind.needs_training and training is None:
        raise BadInputError(f"{variant} needs training data: set data.training to a DVC-tracked directory")
    if (variant, exported.form) in AS_EXPORTED:
        return VariantFile(variant=variant, form=exported.form, artifact=exported.artifact)
    if kind.needs_training and calibration is not None and training is not None:
        return _fine_tuned(objects, source, exported, calibration, params, training, qat or QatParams())
    with objects.new_dir() as folder:
        out = folder / FILE_NAMES[exported.form]
        restored: tuple[Restored, ...] = ()
        if exported.form is Form.PROGRAM and calibration is not None and kind.needs_calibration:
            notes = _calibrate_program(objects, source, out, data, calibration, params)
        elif exported.form is not Form.ONNX:
            notes = _quantize_module(objects, source, variant, exported.form, data, out)
        elif calibration is not None and kind.needs_calibration:
            onnx = objects.path(exported.artifact)
            notes, restored = _calibrate_onnx(onnx, out, variant, source, calibration, params)
        else:
            notes = _quantize_onnx(objects.path(exported.artifact), out, variant, source, data)
        artifact = objects.put(out)
        return VariantFile(variant=variant, form=exported.form, artifact=artifact, notes=notes, restored=restored)


def _calibrate_onnx(
    onnx: Path, out: Path, variant: str, source: ModelSource, calibration: DataSource, params: CalibrationParams
) -> tuple[tuple[str, ...], tuple[Restored, ...]]:
    def stream() -> Iterator[Arrays]:
        return _streamed(calibration, source, CALIBRATION_BATCH)

    if variant == "int8-mixed":
        example = examples(Path(calibration.path), _input_names(source), 1)
        made = quantize_onnx_mixed(onnx, out, stream, params, operator_times(source.signature, example))
        return made.notes, _told(made)
    return quantize_onnx_static(onnx, out, stream, params), ()


def _told(made: Mixed) -> tuple[Restored, ...]:
    return tuple(
        Restored(
            layers=point.layers,
            layer=point.layer,
            fp32_share=point.fp32_share,
            error=point.answers.error,
            agreement=point.answers.agreement,
            latency_us=point.latency_us,
        )
        for point in made.path
    )


def _calibrate_program(
    objects: ObjectStore,
    source: ModelSource,
    out: Path,
    data: DataSource,
    calibration: DataSource,
    params: CalibrationParams,
) -> tuple[str, ...]:
    def stream() -> Iterator[Arrays]:
        return _streamed(calibration, source, CALIBRATION_BATCH)

    module = load_module(objects.path(source.program))
    quantized, notes = quantize_program_static(module, source.signature, stream, params)
    sample = examples(Path(data.path), _input_names(source), TRACED_EXAMPLES)
    return (*notes, export_program(quantized, sample, source.signature, out))


def _quantize_onnx(onnx: Path, out: Path, variant: str, source: ModelSource, data: DataSource) -> tuple[str, ...]:
    if variant == "fp16":
        return reduce_onnx(onnx, out, examples(Path(data.path), _input_names(source), WATCHED_EXAMPLES))
    return quantize_onnx_dynamic(onnx, out)


def _quantize_module(
    objects: ObjectStore, source: ModelSource, variant: str, form: Form, data: DataSource, out: Path
) -> tuple[str, ...]:
    sample = examples(Path(data.path), _input_names(source), TRACED_EXAMPLES)
    module = load_module(objects.path(source.program))
    write = export_program if form is Form.PROGRAM else export_torchscript
    if variant == "int8-dynamic":
        quantized = quantize_linears(module)
        return (told(quantized), write(quantized, sample, source.signature, out))
    reduced = to_reduced(module, sample, source.signature, cast(Reduced, variant))
    return (write(reduced, sample, source.signature, out),)


def _input_names(source: ModelSource) -> list[str]:
    return [spec.name for spec in source.signature.inputs]


def _streamed(data: DataSource, source: ModelSource, size: int) -> Iterator[Arrays]:
    for batch in batches(Path(data.path), _input_names(source), size, with_target=False):
        yield batch.inputs


def _fine_tuned(
    objects: ObjectStore,
    source: ModelSource,
    exported: Exported,
    calibration: DataSource,
    params: CalibrationParams,
    training: DataSource,
    qat: QatParams,
) -> VariantFile:
    """int8-qat: after a kill it goes on from the last whole epoch, where the same was asked of the same bytes."""
    asked = (source.program.digest, exported.artifact.digest, calibration.md5, training.md5, params, qat)
    checkpoint = objects.root / "training" / f"{hashlib.sha256(repr(asked).encode()).hexdigest()}.pt"
    module = load_module(objects.path(source.program))
    trainee, sample = _trainee(objects, source, exported, calibration, module)
    tuned = fine_tune(
        trainee,
        lambda: _streamed(training, source, qat.batch),
        lambda: _labelled(calibration, source),
        params,
        qat,
        checkpoint,
        meter(f"int8-qat {exported.form}", "quantize"),
    )
    _take_over(module, tuned.weights)
    with objects.new_dir() as folder:
        fp32, out = folder / "fp32.onnx", folder / FILE_NAMES[exported.form]
        export_onnx(module, sample, source.signature, fp32)
        notes = quantize_tuned(fp32, out, tuned)
        made = VariantFile(variant="int8-qat", form=exported.form, artifact=objects.put(out), notes=notes)
    checkpoint.unlink(missing_ok=True)
    return made


def _trainee(
    objects: ObjectStore, source: ModelSource, exported: Exported, data: DataSource, module: torch.nn.Module
) -> tuple[Trainee, Arrays]:
    """What is trained, and the examples it was traced with.

    Raises:
        UnsupportedError: the model is TorchScript, which is no graph of PyTorch's autograd.
    """
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedError(
            "int8-qat: a model registered as TorchScript cannot be given int8's rounding and trained; "
            "log it in MLflow's default pt2 format"
        )
    sample = examples(Path(data.path), _input_names(source), TRACED_EXAMPLES)
    graph = translated(module, sample, source.signature)
    placeholders = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    answers = leaves_in_order(graph.graph.output_node().args[0], graph, source.signature)
    names = [*_input_names(source), *(spec.name for spec in source.signature.outputs)]
    nodes = dict(zip(names, [*placeholders, *(node.name for node in answers)], strict=True))
    onnx = objects.path(exported.artifact)
    return Trainee(graph, onnx, tuple(_input_names(source)), nodes), sample


def _labelled(data: DataSource, source: ModelSource) -> Iterator[tuple[Arrays, Array | None]]:
    """The examples with their targets, if the data have any."""
    path = Path(data.path)
    for batch in batches(path, _input_names(source), CALIBRATION_BATCH, with_target=count(path) > 0):
        yield batch.inputs, batch.target


def _take_over(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give ``module`` the weights of the graph that was captured from it, whose names may begin with ``module.``."""
    import torch

    with torch.no_grad():
        for name, own in module.named_parameters():
            own.copy_(weights[name if name in weights else f"module.{name}"])
