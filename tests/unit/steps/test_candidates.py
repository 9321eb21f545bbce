from __future__ import annotations

from slipway.config import Params
from slipway.steps.candidates import candidates, wanted


def params(variants: list[str], engines: list[str]) -> Params:
    return Params.model_validate(
        {
            "model": "models:/m/1",
            "data": {"test": "data/test"},
            "variants": variants,
            "targets": {"x86": {"engines": engines}},
        }
    )


def test_every_variant_is_asked_for_on_every_engine() -> None:
    specs = candidates(params(["fp32", "bf16"], ["torch", "openvino"]), "x86")

    assert [str(spec) for spec in specs] == ["fp32/torch", "fp32/openvino", "bf16/torch", "bf16/openvino"]


def test_engines_share_the_files_they_are_built_from() -> None:
    specs = candidates(params(["fp32"], ["onnxruntime", "openvino"]), "x86")

    assert wanted(specs) == [("fp32", "onnx")]


def test_no_file_is_wanted_for_an_engine_that_refuses_the_variant() -> None:
    assert wanted(candidates(params(["int8-static"], ["torch"]), "x86")) == []
