"""Layers as TensorRT's engine inspector tells them, in the spellings of versions 8 to 10 and of 11."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.engines.tensorrt_profile import inspected_layers, profiled_layers, write_times
from slipway.errors import UnsupportedError

# After the example in NVIDIA's documentation of the inspector.
CONVOLUTION = {
    "Name": "res4_0_branch2a_1 + res4_0_branch2a_bn_1",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "res3_3", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
    "Outputs": [{"Name": "res4_0", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 131072},
}
REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0",
    "LayerType": "Reformat",
    "Inputs": [{"Name": "image", "Format/Datatype": "Row major linear FP32"}],
}


def test_convolution_multiplies_in_the_type_of_its_input_and_a_reformat_does_not() -> None:
    convolution, reformat = inspected_layers(_json(CONVOLUTION, REFORMAT))
    assert (convolution.kind, convolution.precision, convolution.multiplies) == (
        "CaskConvolution Convolution",
        "int8",
        True,
    )
    assert (reformat.precision, reformat.multiplies) == ("fp32", False)


@pytest.mark.parametrize(
    ("spelled", "precision"),
    [
        ({"Format/Datatype": "Row major linear FP16 format"}, "fp16"),
        ({"Format/Datatype": "Half"}, "fp16"),
        ({"Format/Datatype": "BFloat16"}, "bf16"),
        ({"DataType": "Float", "Format": "Row major linear FP32 format (kLINEAR)"}, "fp32"),
        ({"DataType": "Int8", "Format": "Channel major format"}, "int8"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, "int8"),  # by its weights, then
    ],
)
def test_every_spelling_of_a_type_is_read(spelled: dict[str, str], precision: str) -> None:
    (layer,) = inspected_layers(_json({**CONVOLUTION, "Inputs": [{"Name": "x", **spelled}]}))
    assert layer.precision == precision


def test_weights_in_a_smaller_type_than_they_are_multiplied_in_do_not_count() -> None:
    told = {**CONVOLUTION, "LayerType": "gemm", "Inputs": [{"Name": "x", "DataType": "Half"}]}
    (layer,) = inspected_layers(_json(told))
    assert layer.precision == "fp16"


def test_engine_without_details_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no more than its layers' names"):
        inspected_layers(json.dumps({"Layers": ["conv1", "conv2"]}))


def test_times_are_means_and_what_only_the_profiler_knows_is_kept(tmp_path: Path) -> None:
    layers = inspected_layers(_json(CONVOLUTION, REFORMAT))
    convolution, reformat = (layer.name for layer in layers)
    times = [{convolution: 30.0, reformat: 10.0, "shape call": 1.0} for _ in range(8)]
    measured = {layer.name: layer for layer in profiled_layers(layers, times)}
    assert {name: layer.time_us for name, layer in measured.items()} == times[0]
    assert not measured["shape call"].multiplies
    write_times(tmp_path / "trace.json", layers, times)
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert len(events) == 5 * 3
    assert [event["ts"] for event in events[:4]] == [0.0, 30.0, 40.0, 41.0]


def _json(*layers: object) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["image", "logits"]})
