"""Linear layers run in int8 after dynamic quantization, in TorchScript and in ONNX."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slipway.errors import UnsupportedError
from slipway.exports.calling import run
from slipway.exports.onnx import export_onnx
from slipway.exports.torchscript import export_torchscript
from slipway.variants.int8_dynamic import quantize_linears, quantize_onnx_dynamic
from tests.unit.exports.models import (
    Mlp,
    NamedOutputs,
    TextNet,
    batch_of,
    loaded_program,
    make,
    spec,
)
from tests.unit.exports.test_exports import load_onnx, load_script


@pytest.mark.parametrize(("kind", "layers"), [(Mlp, 2), (NamedOutputs, 2), (TextNet, 1)])
def test_linears_execute_int8_from_the_script_alone(kind: type[nn.Module], layers: int, tmp_path: Path) -> None:
    model, example, signature = make(kind)
    program = loaded_program(model, example, signature)
    quantized = quantize_linears(program)
    assert len(list(program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default))) == layers
    export_torchscript(quantized, example, signature, tmp_path / "m.ts")
    answer = load_script(tmp_path / "m.ts", signature)
    for batch in (1, 3, 8):
        arrays = batch_of(signature, batch, seed=batch)
        for expected, found in zip(run(model, arrays, signature), answer(arrays), strict=True):
            np.testing.assert_allclose(found, expected.numpy(), atol=0.1)
    with torch.profiler.profile() as profile:
        answer(example)
    assert sum(event.name == "quantized::linear_dynamic" for event in profile.events()) == layers


def test_float_weights_leave_the_script(tmp_path: Path) -> None:
    model, example, signature = make(Mlp)
    program = loaded_program(model, example, signature)
    quantized = quantize_linears(program)
    assert list(quantized.parameters()) == []
    assert sum(parameter.numel() for parameter in program.parameters()) == 64 * 32 + 32 + 32 * 5
    weight = quantized.get_submodule("linear_int8").weight()  # type: ignore[operator]
    assert weight.dtype == torch.qint8
    assert weight.qscheme() == torch.per_channel_affine


class NoLinear(nn.Module):
    """Only a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 1, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.convolution(features.unsqueeze(1)).squeeze(1)


def test_a_model_without_linears_is_unsupported(tmp_path: Path) -> None:
    _, example, signature = make(Mlp)
    signature = signature.model_copy(update={"outputs": (spec("smooth", -1, 62),)})
    with pytest.raises(UnsupportedError, match="the model has no Linear"):
        quantize_linears(loaded_program(NoLinear(), example, signature))
    export_onnx(NoLinear(), example, signature, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="the model has no MatMul, Gemm, LSTM, Attention"):
        quantize_onnx_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_an_eager_module_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="not from Mlp; register the model as pt2"):
        quantize_linears(make(Mlp)[0])


@pytest.mark.parametrize(
    ("kind", "notes"), [(Mlp, ("2 MatMul or Gemm in int8",)), (TextNet, ("1 MatMul or Gemm in int8", "1 LSTM in int8"))]
)
def test_onnx_layers_become_int8(
    kind: type[nn.Module], notes: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, example, signature = make(kind)
    export_onnx(model, example, signature, tmp_path / "m.onnx")
    source = (tmp_path / "m.onnx").read_bytes()
    assert quantize_onnx_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx") == notes
    quantize_onnx_dynamic(tmp_path / "m.onnx", tmp_path / "again.onnx")
    assert (tmp_path / "q.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
    assert (tmp_path / "m.onnx").read_bytes() == source
    weights = [one for one in onnx.load(tmp_path / "q.onnx").graph.initializer if one.name.endswith("_quantized")]
    assert {one.data_type for one in weights} == {onnx.TensorProto.INT8}
    answer = load_onnx(tmp_path / "q.onnx", signature)
    for batch in (1, 3, 8):
        arrays = batch_of(signature, batch, seed=batch)
        np.testing.assert_allclose(answer(arrays)[0], run(model, arrays, signature)[0].numpy(), atol=0.1)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_onnx_quantization_leaves_the_process_s_logging_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's advice through ``logging.warning`` would give a bare root logger a handler that prints."""
    model, example, signature = make(Mlp)
    export_onnx(model, example, signature, tmp_path / "m.onnx")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    quantize_onnx_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert logging.getLogger().handlers == []
    assert logging.getLogger().filters == []


class Tied(nn.Module):
    """One weight for two layers, as tied embeddings and freshly copied encoder layers have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.linear(torch.tanh(self.linear(features)))))


def test_layers_that_share_a_weight_each_keep_it(tmp_path: Path) -> None:
    """ONNX Runtime's quantizer transposes a Gemm's weight in place: shared by two, it would be turned back again."""
    torch.manual_seed(0)
    _, example, signature = make(Mlp)
    model = Tied().eval()
    export_onnx(model, example, signature, tmp_path / "m.onnx")
    weights = [node.input[1] for node in onnx.load(tmp_path / "m.onnx").graph.node if node.op_type == "Gemm"]
    assert len(weights) == 3
    assert len(set(weights)) == 2
    assert quantize_onnx_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx") == ("3 MatMul or Gemm in int8",)
    found = load_onnx(tmp_path / "q.onnx", signature)(example)[0]
    np.testing.assert_allclose(found, run(model, example, signature)[0].numpy(), atol=0.05)
