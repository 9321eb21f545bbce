from __future__ import annotations

import itertools

import pytest

from slipway.config import VARIANTS, CalibrationParams
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Form
from slipway.steps.quantize import quantize
from slipway.variants import variant as kind_of
from tests.unit.steps.material import Material

CALIBRATED = (
    "2 of 2 Conv in int8",
    "1 of 1 Gemm in int8",
    "calibrated on 29 examples, ranges by minmax",
    "ranges of ",
    "0.",
)
MADE = {
    ("fp32", Form.PROGRAM): (),
    ("fp32", Form.TORCHSCRIPT): (),
    ("fp32", Form.ONNX): (),
    ("bf16", Form.PROGRAM): ("torch.export",),
    ("bf16", Form.TORCHSCRIPT): ("torch.jit.script of the exported graph",),
    ("bf16", Form.ONNX): (),
    ("fp16", Form.PROGRAM): ("torch.export",),
    ("fp16", Form.TORCHSCRIPT): ("torch.jit.script of the exported graph",),
    ("fp16", Form.ONNX): ("kept in fp32 for precision: 1 ReduceMean",),
    ("int8-dynamic", Form.TORCHSCRIPT): (
        "1 of 1 Linear in int8; in fp32 stay 2 conv2d",
        "torch.jit.script of the exported graph",
    ),
    ("int8-dynamic", Form.ONNX): ("1 MatMul or Gemm in int8",),
    ("int8-static", Form.PROGRAM): ("2 of 2 conv2d in int8", "1 of 1 linear in int8", *CALIBRATED[2:], "torch.export"),
    ("int8-static", Form.ONNX): CALIBRATED,
    ("int8-mixed", Form.ONNX): (
        *CALIBRATED[:2],
        "0 of 3 layers back in fp32; judged on 3 held-back examples",
        "3 held-back examples cannot show 1%: the error of the outputs (at most 5%) decides too",
        "0 layers in fp32: 100.00% top-1 agreement, ",
        *CALIBRATED[2:],
    ),
    ("int8-qat", Form.ONNX): (
        *CALIBRATED[:2],
        "fine-tuned with 3 of 3 layers and ",
        "on 32 examples, batches of 32, learning rate 0.0001",
        "epoch 0: ",
        "epoch 1: ",
        "kept epoch ",
    ),
}
SLOW = {("int8-static", Form.PROGRAM)}  # importing torchao and executorch takes seconds
AS_EXPORTED = {(variant, form) for (variant, form), notes in MADE.items() if not notes}


@pytest.mark.parametrize(
    ("variant", "form"), [pytest.param(*pair, marks=[pytest.mark.integration] * (pair in SLOW)) for pair in MADE]
)
def test_each_variant_in_each_of_its_forms(variant: str, form: Form, material: Material) -> None:
    made = material.variant(variant, form)

    assert (made.variant, made.form) == (variant, form)
    expected = MADE[variant, form]
    warned = [note for note in made.notes if note.startswith("calibration is inadequate")]  # of 32 random examples
    notes = [note for note in made.notes if note not in warned]
    assert len(warned) <= (kind_of(variant).needs_calibration)
    for note, start in zip(notes, expected, strict=True):
        assert note.startswith(start)
    as_exported = made.artifact == material.exported(form).artifact
    assert as_exported == ((variant, form) in AS_EXPORTED)
    assert material.objects.has(made.artifact)
    # None of its layers has to go back: the way of int8-mixed is a single point.
    way = [(point.layers, point.layer, point.agreement, point.latency_us) for point in made.restored]
    assert way == ([(0, None, 1.0, None)] if variant == "int8-mixed" else [])


@pytest.mark.parametrize(("variant", "form"), [pair for pair in itertools.product(VARIANTS, Form) if pair not in MADE])
def test_a_variant_that_a_form_cannot_hold_is_skipped(variant: str, form: Form, material: Material) -> None:
    with pytest.raises(UnsupportedError, match=f"^{variant} does not exist as {form}: "):
        quantize(
            material.objects, material.source, material.exported(form), variant, material.data, material.calibration
        )


@pytest.mark.parametrize("variant", ["int8-static", "int8-mixed"])
def test_static_int8_without_calibration_data_is_bad_input(variant: str, material: Material) -> None:
    with pytest.raises(BadInputError, match=rf"^{variant} needs calibration data: set data\.calibration"):
        quantize(material.objects, material.source, material.exported(Form.ONNX), variant, material.data, None)


@pytest.mark.parametrize("variant", ["int8-static", "int8-mixed"])
def test_ranges_are_chosen_as_the_parameters_say(variant: str, material: Material) -> None:
    params = CalibrationParams(ranges="percentile", percentile=99.0)
    exported = material.exported(Form.ONNX)
    made = quantize(material.objects, material.source, exported, variant, material.data, material.calibration, params)

    assert "calibrated on 29 examples, ranges by percentile 99.0" in made.notes
    assert made.artifact != material.variant(variant, Form.ONNX).artifact


def test_an_unknown_variant_is_bad_input(material: Material) -> None:
    with pytest.raises(BadInputError, match="unknown variant 'int4'"):
        quantize(material.objects, material.source, material.exported(Form.ONNX), "int4", material.data, None)


def test_the_same_variant_made_again_has_the_same_digest(material: Material) -> None:
    again = quantize(
        material.objects,
        material.source,
        material.exported(Form.ONNX),
        "int8-static",
        material.data,
        material.calibration,
    )

    assert again == material.variant("int8-static", Form.ONNX)
