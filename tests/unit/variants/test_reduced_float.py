"""16-bit copies run in 16 bits inside, speak the signature's dtypes outside, and leave their source alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slipway.errors import RejectedError, UnsupportedError
from slipway.exports.calling import run
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.variants.reduced_float import Reduced, to_reduced
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

STEPS = {"bf16": 2**-8, "fp16": 2**-11}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

in_both = pytest.mark.parametrize("variant", DTYPES)


@in_both
@pytest.mark.parametrize("kind", MODELS)
def test_a_program_in_16_bits_exports_and_stays_near(kind: type[nn.Module], variant: Reduced, tmp_path: Path) -> None:
    model, example, signature = make(kind)
    program = loaded_program(model, example, signature)
    converted = to_reduced(program, example, signature, variant)
    assert {parameter.dtype for parameter in converted.parameters()} == {DTYPES[variant]}
    assert {parameter.dtype for parameter in program.parameters()} == {torch.float32}
    for export, load in ((export_program, load_program), (export_torchscript, load_script)):
        export(converted, example, signature, tmp_path / "m.pt2")
        answer = load(tmp_path / "m.pt2", signature)
        for batch in (1, 3, 8):
            arrays = batch_of(signature, batch, seed=batch)
            for expected, found in zip(run(model, arrays, signature), answer(arrays), strict=True):
                assert found.dtype == np.float32
                np.testing.assert_allclose(found, expected.numpy(), rtol=12 * STEPS[variant], atol=8 * STEPS[variant])


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


@in_both
def test_compute_runs_in_16_bits(variant: Reduced) -> None:
    model, example, signature = make(Mlp)
    converted = to_reduced(loaded_program(model, example, signature), example, signature, variant)
    assert isinstance(converted, torch.fx.GraphModule)
    recorder = DtypeRecorder(converted)
    recorder.run(torch.from_numpy(example["features"]))
    assert recorder.dtypes == [DTYPES[variant], DTYPES[variant]]


@in_both
@pytest.mark.parametrize("kind", [ResidualNet, Mlp])
def test_a_script_in_16_bits_stays_a_script(kind: type[nn.Module], variant: Reduced, tmp_path: Path) -> None:
    model, example, signature = make(kind)
    script = scripted(model, example, signature)
    converted = to_reduced(script, example, signature, variant)
    assert isinstance(converted, torch.jit.ScriptModule)
    assert {parameter.dtype for parameter in script.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in converted.parameters()} == {DTYPES[variant]}
    export_torchscript(converted, example, signature, tmp_path / "m.ts")
    expected = run(model, example, signature)[0].numpy()
    found = load_script(tmp_path / "m.ts", signature)(example)[0]
    np.testing.assert_allclose(found, expected, rtol=12 * STEPS[variant], atol=8 * STEPS[variant])


class HardCoded(nn.Module):
    """Names float32 in its own code: a cast and new tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features.to(torch.float32) + torch.ones(64) + torch.zeros(64, dtype=torch.float32))


@in_both
def test_float32_that_the_graph_names_becomes_16_bits(variant: Reduced) -> None:
    _, example, signature = make(Mlp)
    converted = to_reduced(loaded_program(HardCoded(), example, signature), example, signature, variant)
    assert run(converted, example, signature)[0].dtype == torch.float32


class Inverse(nn.Module):
    """Uses an operator that PyTorch does not have in bfloat16."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.linalg.inv(features[:, :25].reshape(-1, 5, 5)).sum(1)


@pytest.mark.parametrize(("variant", "words"), [("bf16", r"bfloat16: .*BFloat16"), ("fp16", r"float16: .*Half")])
def test_a_model_that_cannot_run_in_16_bits_is_unsupported_with_the_reason(variant: Reduced, words: str) -> None:
    _, example, signature = make(Mlp)
    program = loaded_program(Inverse(), example, signature.model_copy(update={"outputs": (spec("inverse", -1, 5),)}))
    with pytest.raises(UnsupportedError, match=rf"^{variant}: the model does not run in {words}"):
        to_reduced(program, example, signature, variant)


class Loud(nn.Module):
    """Answers beyond 65504."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (self.linear(features) * 1e3) ** 3


def test_answers_that_overflow_are_rejected_in_fp16_and_kept_in_bf16() -> None:
    _, example, signature = make(Mlp)
    program = loaded_program(Loud(), example, signature)
    with pytest.raises(RejectedError, match="fp16: the model's answers overflow in float16; use bf16"):
        to_reduced(program, example, signature, "fp16")
    assert run(to_reduced(program, example, signature, "bf16"), example, signature)[0].isfinite().all()


@in_both
def test_an_eager_module_is_unsupported(variant: Reduced) -> None:
    model, example, signature = make(Mlp)
    with pytest.raises(
        UnsupportedError, match=f"{variant} is made from an exported program or TorchScript, not from Mlp"
    ):
        to_reduced(model, example, signature, variant)
