"""The table of variants."""

from __future__ import annotations

import pytest

from slipway import config
from slipway.errors import BadInputError
from slipway.records import Form
from slipway.variants import VARIANTS, variant


def test_the_table_knows_every_variant_that_params_may_name() -> None:
    assert tuple(VARIANTS) == config.VARIANTS


def test_what_data_each_needs() -> None:
    calibrated = [kind.name for kind in VARIANTS.values() if kind.needs_calibration]
    assert calibrated == ["int8-static", "int8-mixed", "int8-qat"]
    assert [kind.name for kind in VARIANTS.values() if kind.needs_training] == ["int8-qat"]


def test_forms() -> None:
    assert {name: set(kind.forms) for name, kind in VARIANTS.items()} == {
        "fp32": {Form.PROGRAM, Form.TORCHSCRIPT, Form.ONNX},
        "bf16": {Form.PROGRAM, Form.TORCHSCRIPT, Form.ONNX},
        "fp16": {Form.PROGRAM, Form.TORCHSCRIPT, Form.ONNX},
        "int8-dynamic": {Form.TORCHSCRIPT, Form.ONNX},
        "int8-static": {Form.PROGRAM, Form.ONNX},
        "int8-mixed": {Form.ONNX},
        "int8-qat": {Form.ONNX},
    }


def test_an_unknown_variant_is_refused_with_those_known() -> None:
    with pytest.raises(BadInputError, match="unknown variant 'int4'; known: fp32, bf16"):
        variant("int4")
