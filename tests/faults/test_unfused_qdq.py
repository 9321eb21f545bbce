"""A file that says int8 and runs in fp32: the Q/DQ nodes are there, and the runtime fused none of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from slipway.config import PrecisionParams
from slipway.decisions.precision import precision_gate
from slipway.engines import engine
from slipway.engines.base import Arrays, BuildOptions, RunOptions
from slipway.records import Form, Verdict
from tests.contract.engines.tiny import TinyModel, residual

COMPUTE = ("Conv", "Gemm")

each_runtime = pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Two convolutions and a linear head."""
    return residual(tmp_path_factory.mktemp("model"))


def judged(runtime: str, model: TinyModel, source: Path, folder: Path) -> tuple[Verdict, str]:
    """The gate's verdict on the engine that ``runtime`` builds from ``source`` as int8-static, and its reason."""
    path = folder / f"engine{engine(runtime).suffix}"
    engine(runtime).build(source, path, BuildOptions(variant="int8-static", signature=model.signature))
    profile = engine(runtime).profile(path, RunOptions(), model.arrays(1), calls=5, trace=folder / "trace.json")
    decision = precision_gate(PrecisionParams(), "int8-static", profile)
    assert decision is not None
    (reason,) = decision.reasons
    return decision.verdict, reason


@each_runtime
def test_a_well_fused_file_passes(runtime: str, model: TinyModel, tmp_path: Path) -> None:
    verdict, reason = judged(runtime, model, model.files[Form.ONNX, "int8-static"], tmp_path)
    assert (verdict, reason.partition(" (")[0]) == (
        Verdict.PASS,
        "3 of 3 convolutions and matrix products ran in int8",
    )


def put_operators_between(graph: onnx.GraphProto) -> None:
    """Let what is dequantized pass through an activation before the layer that was meant to take it in int8."""
    nodes = []
    for node in graph.node:
        if node.op_type in COMPUTE:
            activated = f"{node.name}_activated"
            nodes.append(helper.make_node("Elu", [node.input[0]], [activated], name=activated))
            node.input[0] = activated
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def quantize_weights_only(graph: onnx.GraphProto) -> None:
    """Let every layer take the tensor as it was before it was quantized."""
    quantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    before = {
        node.output[0]: quantized[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized
    }
    for node in graph.node:
        if node.op_type in COMPUTE:
            node.input[0] = before[node.input[0]]


@each_runtime
@pytest.mark.parametrize("fault", [put_operators_between, quantize_weights_only])
def test_nodes_left_unfused_fail_with_the_layers_that_ran_in_fp32(
    runtime: str, fault: Callable[[onnx.GraphProto], None], model: TinyModel, tmp_path: Path
) -> None:
    faulty = onnx.load(model.files[Form.ONNX, "int8-static"])
    fault(faulty.graph)
    onnx.save(faulty, tmp_path / "faulty.onnx")
    verdict, reason = judged(runtime, model, tmp_path / "faulty.onnx", tmp_path)
    assert verdict is Verdict.FAIL
    assert reason.startswith("0 of 3 convolutions and matrix products ran in int8, 3 in fp32: node_")
    assert reason.endswith("(0.0%, 80% demanded)")


def quantized(model: TinyModel, activations: QuantType, out: Path) -> Path:
    """The model with ``activations`` of another type than u8."""

    class Calibration(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self._batches: Iterator[Arrays] = iter([model.arrays(32)])

        def get_next(self) -> Arrays | None:
            return next(self._batches, None)

    graph = onnx.load(model.files[Form.ONNX, "fp32"])
    del graph.graph.value_info[:]  # the exporter's shapes contradict the quantizer's inference
    settings = {"activation_type": activations, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(copy.deepcopy(graph), out, Calibration(), **settings, extra_options={"ActivationSymmetric": True})
    return out


@each_runtime
def test_activations_of_16_bits_fail(runtime: str, model: TinyModel, tmp_path: Path) -> None:
    source = quantized(model, QuantType.QUInt16, tmp_path / "u16.onnx")
    assert judged(runtime, model, source, tmp_path)[0] is Verdict.FAIL


def test_signed_activations_fail_on_onnxruntime_alone(model: TinyModel, tmp_path: Path) -> None:
    """The spelling that TensorRT wants: behind a ReLU, ONNX Runtime on x86 leaves it in fp32."""
    source = quantized(model, QuantType.QInt8, tmp_path / "s8.onnx")
    verdict, reason = judged("onnxruntime", model, source, tmp_path)
    assert verdict is Verdict.FAIL, reason
    assert " in fp32: node_" in reason
    assert judged("openvino", model, source, tmp_path)[0] is Verdict.PASS
