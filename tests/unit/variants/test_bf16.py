"""bfloat16 copies run in bfloat16 inside, speak the signature's dtypes outside, and leave their source alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slipway.errors import UnsupportedError
from slipway.exports.calling import run
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.variants.bf16 import to_bf16
from tests.unit.exports.models import (
    MODELS,
    Mlp,
    ResidualNet,
    batch_of,
    loaded_program,
    make,
    scripted,
    spec,
)
from tests.unit.exports.test_exports import load_program, load_script

BFLOAT16_STEP = 2**-8


@pytest.mark.parametrize("kind", MODELS)
def test_a_program_in_bfloat16_exports_and_stays_near(kind: type[nn.Module], tmp_path: Path) -> None:
    model, example, signature = make(kind)
    program = loaded_program(model, example, signature)
    converted = to_bf16(program, example, signature)
    assert {parameter.dtype for parameter in converted.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in program.parameters()} == {torch.float32}
    for export, load in ((export_program, load_program), (export_torchscript, load_script)):
        export(converted, example, signature, tmp_path / "m.pt2")
        answer = load(tmp_path / "m.pt2", signature)
        for batch in (1, 3, 8):
            arrays = batch_of(signature, batch, seed=batch)
            for expected, found in zip(run(model, arrays, signature), answer(arrays), strict=True):
                assert found.dtype == np.float32
                np.testing.assert_allclose(found, expected.numpy(), rtol=0.05, atol=8 * BFLOAT16_STEP)


class DtypeRecorder(torch.fx.Interpreter):
    """Runs a graph and notes the dtype of each linear layer's answer."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.dtypes: list[torch.dtype] = []

    def run_node(self, node: torch.fx.Node) -> Any:
        answer = super().run_node(node)
        if node.target is torch.ops.aten.linear.default:
            self.dtypes.append(answer.dtype)
        return answer


def test_compute_runs_in_bfloat16() -> None:
    model, example, signature = make(Mlp)
    converted = to_bf16(loaded_program(model, example, signature), example, signature)
    assert isinstance(converted, torch.fx.GraphModule)
    recorder = DtypeRecorder(converted)
    recorder.run(torch.from_numpy(example["features"]))
    assert recorder.dtypes == [torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize("kind", [ResidualNet, Mlp])
def test_a_script_in_bfloat16_stays_a_script(kind: type[nn.Module], tmp_path: Path) -> None:
    model, example, signature = make(kind)
    script = scripted(model, example, signature)
    converted = to_bf16(script, example, signature)
    assert isinstance(converted, torch.jit.ScriptModule)
    assert {parameter.dtype for parameter in script.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in converted.parameters()} == {torch.bfloat16}
    export_torchscript(converted, example, signature, tmp_path / "m.ts")
    expected = run(model, example, signature)[0].numpy()
    found = load_script(tmp_path / "m.ts", signature)(example)[0]
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=8 * BFLOAT16_STEP)


class HardCoded(nn.Module):
    """Names float32 in its own code: a cast and new tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features.to(torch.float32) + torch.ones(64) + torch.zeros(64, dtype=torch.float32))


def test_float32_that_the_graph_names_becomes_bfloat16() -> None:
    _, example, signature = make(Mlp)
    converted = to_bf16(loaded_program(HardCoded(), example, signature), example, signature)
    assert run(converted, example, signature)[0].dtype == torch.float32


class Inverse(nn.Module):
    """Uses an operator that PyTorch does not have in bfloat16."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.linalg.inv(features[:, :25].reshape(-1, 5, 5)).sum(1)


def test_a_model_that_cannot_run_in_bfloat16_is_unsupported_with_the_reason() -> None:
    _, example, signature = make(Mlp)
    program = loaded_program(Inverse(), example, signature.model_copy(update={"outputs": (spec("inverse", -1, 5),)}))
    with pytest.raises(UnsupportedError, match=r"does not run in bfloat16: .*BFloat16"):
        to_bf16(program, example, signature)


def test_an_eager_module_is_unsupported() -> None:
    model, example, signature = make(Mlp)
    with pytest.raises(UnsupportedError, match="not from Mlp"):
        to_bf16(model, example, signature)
