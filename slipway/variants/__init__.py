"""How a model becomes smaller: the variants, the forms each is made in, and what each needs."""

from __future__ import annotations

from dataclasses import dataclass

from slipway.errors import BadInputError
from slipway.records import Form


@dataclass(frozen=True)
class VariantKind:
    """One numerical form of a model, as a fact sheet."""

    name: str
    forms: frozenset[Form]
    needs_calibration: bool
    summary: str
    needs_training: bool = False


VARIANTS: dict[str, VariantKind] = {
    kind.name: kind
    for kind in (
        VariantKind("fp32", frozenset(Form), False, "the model as it was registered"),
        VariantKind(
            "bf16",
            frozenset(Form),
            False,
            "weights and compute in bfloat16; as ONNX it is the fp32 file unchanged, which the engine runs in bfloat16",
        ),
        VariantKind(
            "fp16",
            frozenset(Form),
            False,
            "weights and compute in float16, inputs and outputs as they were; as ONNX with normalisations, softmax and "
            "sums in fp32",
        ),
        VariantKind(
            "int8-dynamic",
            frozenset({Form.TORCHSCRIPT, Form.ONNX}),
            False,
            "linear layers with int8 weights, activations quantized as they come",
        ),
        VariantKind(
            "int8-static",
            frozenset({Form.ONNX, Form.PROGRAM}),
            True,
            "int8 weights per channel and int8 activations whose ranges come from calibration data",
        ),
        VariantKind(
            "int8-mixed",
            frozenset({Form.ONNX}),
            True,
            "int8-static with its most sensitive layers back in fp32, as many as the answers need",
        ),
        VariantKind(
            "int8-qat",
            frozenset({Form.ONNX}),
            True,
            "int8-static whose weights and ranges were fine-tuned with training data, to answer as fp32 does",
            needs_training=True,
        ),
    )
}


def variant(name: str) -> VariantKind:
    """The variant of this name.

    Raises:
        BadInputError: there is none.
    """
    if name not in VARIANTS:
        raise BadInputError(f"unknown variant {name!r}; known: {', '.join(VARIANTS)}")
    return VARIANTS[name]
