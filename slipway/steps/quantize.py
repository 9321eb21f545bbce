"""Make one variant of the model in one form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from slipway.config import CalibrationParams
from slipway.engines.base import Arrays
from slipway.engines.torch_eager import load_module
from slipway.errors import BadInputError, UnsupportedError
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.records import DataSource, Exported, Form, ModelSource, VariantFile
from slipway.steps.export import FILE_NAMES
from slipway.stores.datasets import batches, examples
from slipway.stores.objects import ObjectStore
from slipway.variants import variant as kind_of
from slipway.variants.fp16_onnx import reduce_onnx
from slipway.variants.int8_dynamic import quantize_linears, quantize_onnx_dynamic, told
from slipway.variants.int8_mixed import quantize_onnx_mixed
from slipway.variants.int8_static import quantize_onnx_static
from slipway.variants.reduced_float import Reduced, to_reduced

CALIBRATION_BATCH = 8  # all activations of a batch are in memory at once: about 350 MB of a ResNet-50 at 224 x 224
MIN_AND_MAX = CalibrationParams()
TRACED_EXAMPLES = 2
WATCHED_EXAMPLES = 8  # on which fp16 looks for values beyond its range
AS_EXPORTED = {("bf16", Form.ONNX), *(("fp32", form) for form in Form)}


def quantize(
    objects: ObjectStore,
    source: ModelSource,
    exported: Exported,
    variant: str,
    data: DataSource,
    calibration: DataSource | None,
    params: CalibrationParams = MIN_AND_MAX,
) -> VariantFile:
    """Make ``variant`` from the exported fp32 file; ``data`` gives the examples that tracing needs.

    Raises:
        UnsupportedError: the variant makes no sense in this form or for this model.
        RejectedError: the variant cannot be made of this model, or its answers are no numbers.
        BadInputError: the variant needs calibration data and there is none.
    """
    kind = kind_of(variant)
    if exported.form not in kind.forms:
        raise UnsupportedError(f"{variant} does not exist as {exported.form}: {kind.summary}")
    if kind.needs_calibration and calibration is None:
        raise BadInputError(f"{variant} needs calibration data: set data.calibration to a DVC-tracked directory")
    if (variant, exported.form) in AS_EXPORTED:
        return VariantFile(variant=variant, form=exported.form, artifact=exported.artifact)
    with objects.new_dir() as folder:
        out = folder / FILE_NAMES[exported.form]
        if exported.form is not Form.ONNX:
            notes = _quantize_module(objects, source, variant, exported.form, data, out)
        elif calibration is not None and kind.needs_calibration:
            notes = _calibrate_onnx(objects.path(exported.artifact), out, variant, source, calibration, params)
        else:
            notes = _quantize_onnx(objects.path(exported.artifact), out, variant, source, data)
        return VariantFile(variant=variant, form=exported.form, artifact=objects.put(out), notes=notes)


def _calibrate_onnx(
    onnx: Path, out: Path, variant: str, source: ModelSource, calibration: DataSource, params: CalibrationParams
) -> tuple[str, ...]:
    def stream() -> Iterator[Arrays]:
        for batch in batches(Path(calibration.path), _input_names(source), CALIBRATION_BATCH, with_target=False):
            yield batch.inputs

    if variant == "int8-mixed":
        return quantize_onnx_mixed(onnx, out, stream, params).notes
    return quantize_onnx_static(onnx, out, stream, params)


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
