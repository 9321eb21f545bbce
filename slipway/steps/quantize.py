"""Make one variant of the model in one form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
from slipway.variants.bf16 import to_bf16
from slipway.variants.int8_dynamic import quantize_linears, quantize_onnx_dynamic
from slipway.variants.int8_static import quantize_onnx_static

CALIBRATION_BATCH = 32


def quantize(
    objects: ObjectStore,
    source: ModelSource,
    exported: Exported,
    variant: str,
    data: DataSource,
    calibration: DataSource | None,
) -> VariantFile:
    """Make ``variant`` from the exported fp32 file; ``data`` gives the examples that tracing needs.

    Raises:
        UnsupportedError: the variant makes no sense in this form or for this model.
        BadInputError: the variant needs calibration data and there is none.
    """
    kind = kind_of(variant)
    if exported.form not in kind.forms:
        raise UnsupportedError(f"{variant} does not exist as {exported.form}: {kind.summary}")
    if kind.needs_calibration and calibration is None:
        raise BadInputError(f"{variant} needs calibration data: set data.calibration to a DVC-tracked directory")
    if variant == "fp32" or (variant, exported.form) == ("bf16", Form.ONNX):
        return VariantFile(variant=variant, form=exported.form, artifact=exported.artifact)
    with objects.new_dir() as folder:
        out = folder / FILE_NAMES[exported.form]
        if exported.form is Form.ONNX:
            notes = _quantize_onnx(objects.path(exported.artifact), out, variant, source, calibration)
        else:
            notes = _quantize_module(objects, source, variant, exported.form, data, out)
        return VariantFile(variant=variant, form=exported.form, artifact=objects.put(out), notes=notes)


def _quantize_onnx(
    onnx: Path, out: Path, variant: str, source: ModelSource, calibration: DataSource | None
) -> tuple[str, ...]:
    if variant == "int8-static" and calibration is not None:
        return quantize_onnx_static(onnx, out, _calibration_batches(source, calibration))
    return quantize_onnx_dynamic(onnx, out)


def _quantize_module(
    objects: ObjectStore, source: ModelSource, variant: str, form: Form, data: DataSource, out: Path
) -> tuple[str, ...]:
    sample = examples(Path(data.path), _input_names(source), 2)
    module = load_module(objects.path(source.program))
    smaller = to_bf16(module, sample, source.signature) if variant == "bf16" else quantize_linears(module)
    write = export_program if form is Form.PROGRAM else export_torchscript
    return (write(smaller, sample, source.signature, out),)


def _calibration_batches(source: ModelSource, calibration: DataSource) -> Iterator[Arrays]:
    for batch in batches(Path(calibration.path), _input_names(source), CALIBRATION_BATCH, with_target=False):
        yield batch.inputs


def _input_names(source: ModelSource) -> list[str]:
    return [spec.name for spec in source.signature.inputs]
