from __future__ import annotations

import itertools

import pytest

from slipway.config import VARIANTS
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Form
from slipway.steps.quantize import quantize
from tests.unit.steps.material import Material

MADE = {
    ("fp32", Form.PROGRAM): (),
    ("fp32", Form.TORCHSCRIPT): (),
    ("fp32", Form.ONNX): (),
    ("bf16", Form.PROGRAM): ("torch.export",),
    ("bf16", Form.TORCHSCRIPT): ("torch.jit.script of the exported graph",),
    ("bf16", Form.ONNX): (),
    ("int8-dynamic", Form.TORCHSCRIPT): ("torch.jit.script of the exported graph",),
    ("int8-dynamic", Form.ONNX): ("1 MatMul or Gemm in int8",),
    ("int8-static", Form.ONNX): ("2 of 2 Conv in int8", "1 of 1 Gemm in int8", "calibrated on 32 examples"),
}
AS_EXPORTED = {(variant, form) for (variant, form), notes in MADE.items() if not notes}


@pytest.mark.parametrize(("variant", "form"), MADE)
def test_each_variant_in_each_of_its_forms(variant: str, form: Form, material: Material) -> None:
    made = material.variant(variant, form)

    assert (made.variant, made.form) == (variant, form)
    expected = MADE[variant, form]
    assert len(made.notes) == len(expected)
    for note, start in zip(made.notes, expected, strict=True):
        assert note.startswith(start)
    as_exported = made.artifact == material.exported(form).artifact
    assert as_exported == ((variant, form) in AS_EXPORTED)
    assert material.objects.has(made.artifact)


@pytest.mark.parametrize(("variant", "form"), [pair for pair in itertools.product(VARIANTS, Form) if pair not in MADE])
def test_a_variant_that_a_form_cannot_hold_is_skipped(variant: str, form: Form, material: Material) -> None:
    with pytest.raises(UnsupportedError, match=f"^{variant} does not exist as {form}: "):
        quantize(
            material.objects, material.source, material.exported(form), variant, material.data, material.calibration
        )


def test_int8_static_without_calibration_data_is_bad_input(material: Material) -> None:
    with pytest.raises(BadInputError, match=r"^int8-static needs calibration data: set data\.calibration"):
        quantize(material.objects, material.source, material.exported(Form.ONNX), "int8-static", material.data, None)


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
