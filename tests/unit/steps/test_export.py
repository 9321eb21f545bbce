from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.engines.torch_eager import load_module
from slipway.errors import RejectedError
from slipway.records import Form
from slipway.steps.export import EXPORTERS, export
from tests.unit.steps.material import Material, tiny_module


@pytest.mark.parametrize(
    ("form", "name", "exporter"),
    [
        (Form.PROGRAM, "model.pt2", "torch.export"),
        (Form.TORCHSCRIPT, "model.ts", "torch.jit.script"),
        (Form.ONNX, "model.onnx", "torch.onnx"),
    ],
)
def test_each_form_answers_as_the_model_on_real_inputs(
    form: Form, name: str, exporter: str, material: Material
) -> None:
    exported = material.exported(form)

    assert (exported.form, exported.artifact.name) == (form, name)
    assert exported.exporter.startswith(exporter)
    assert exported.parity is not None
    assert exported.parity.max_abs_diff < 1e-4
    assert material.objects.has(exported.artifact)


@pytest.mark.parametrize(
    ("form", "operator"),
    [
        (Form.PROGRAM, "linear (aten.linear.default)"),
        (Form.TORCHSCRIPT, "logits (aten::linear)"),
        (Form.ONNX, "node_linear (Gemm)"),
    ],
)
def test_an_export_of_one_changed_weight_is_rejected_and_its_operator_named(
    form: Form, operator: str, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = EXPORTERS[form]

    def with_one_changed_weight(module: Any, example: Any, signature: Any, out: Path) -> str:
        changed = copy.deepcopy(tiny_module())
        with torch.no_grad():
            changed.head.weight[0, 0] += 0.5
        return write(changed, example, signature, out)

    monkeypatch.setitem(EXPORTERS, form, with_one_changed_weight)

    with pytest.raises(
        RejectedError, match=r"^export is wrong at batch 1: max difference .* at output 'logits'"
    ) as found:
        export(material.objects, material.source, form, material.data)
    assert f"; first operator that differs: {operator}: max difference" in str(found.value)


def test_an_export_that_is_wrong_at_another_batch_alone_is_rejected(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(torch.nn.Module):
        """Right at batch 1: the mean over the batch is then that of the example itself."""

        def __init__(self) -> None:
            super().__init__()
            self.module = tiny_module()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.module(image)
            return logits - logits.mean(0) + logits[:1].mean(0)

    write = EXPORTERS[Form.PROGRAM]
    monkeypatch.setitem(EXPORTERS, Form.PROGRAM, lambda _, *rest: write(Wrong().eval(), *rest))

    with pytest.raises(RejectedError, match=r"^export is wrong at batch 3: "):
        export(material.objects, material.source, Form.PROGRAM, material.data)


def test_an_export_that_does_not_run_where_the_model_does_is_rejected(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_fixed_batch(module: Any, example: Any, signature: Any, out: Path) -> str:
        shape = (1, *signature.inputs[0].shape[1:])
        fixed = signature.inputs[0].model_copy(update={"shape": shape})
        return write(module, example, signature.model_copy(update={"inputs": (fixed,)}), out)

    write = EXPORTERS[Form.ONNX]
    monkeypatch.setitem(EXPORTERS, Form.ONNX, of_fixed_batch)

    with pytest.raises(RejectedError, match=r"^export does not run at batch 1, as the model does: .*float32\[2, 3"):
        export(material.objects, material.source, Form.ONNX, material.data)


def test_the_stored_program_is_not_touched(material: Material) -> None:
    before = material.objects.path(material.source.program).read_bytes()
    material.exported(Form.ONNX)

    assert material.objects.path(material.source.program).read_bytes() == before
    load_module(material.objects.path(material.source.program))
