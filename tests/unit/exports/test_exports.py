"""Every form loads without Slipway, answers as the eager model does at any batch, and carries its names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from slipway.errors import BadInputError, RejectedError, UnsupportedError
from slipway.exports import onnx as onnx_export
from slipway.exports.calling import Arrays, run
from slipway.exports.onnx import export_onnx
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.records import Signature
from tests.unit.exports.models import (
    MODELS,
    Mlp,
    ResidualNet,
    TextNet,
    batch_of,
    loaded_program,
    make,
    scripted,
    spec,
)

Answer = Callable[[Arrays], list[np.ndarray]]
EXPORTS = (export_onnx, export_program, export_torchscript)


def load_onnx(path: Path, signature: Signature) -> Answer:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run([one.name for one in signature.outputs], dict(arrays))


def load_script(path: Path, signature: Signature) -> Answer:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        module = torch.jit.load(path)
    return lambda arrays: [one.numpy() for one in run(module, arrays, signature)]


def load_program(path: Path, signature: Signature) -> Answer:
    module = torch.export.load(path).module()
    return lambda arrays: [one.numpy() for one in run(module, arrays, signature)]


def assert_parity(answer: Answer, model: nn.Module, signature: Signature) -> None:
    for batch in (1, 3, 8):
        arrays = batch_of(signature, batch, seed=batch)
        expected = run(model, arrays, signature)
        for one, found in zip(expected, answer(arrays), strict=True):
            np.testing.assert_allclose(found, one.numpy(), atol=1e-5, err_msg=f"batch {batch}")


@pytest.mark.parametrize("kind", MODELS)
def test_every_form_answers_as_eager_at_any_batch(kind: type[nn.Module], tmp_path: Path) -> None:
    model, example, signature = make(kind)
    program = loaded_program(model, example, signature)
    for export, load in ((export_onnx, load_onnx), (export_program, load_program), (export_torchscript, load_script)):
        export(program, example, signature, tmp_path / "model.pt2")
        assert_parity(load(tmp_path / "model.pt2", signature), model, signature)


@pytest.mark.parametrize("kind", [ResidualNet, TextNet])
def test_a_registered_script_exports_in_every_form(kind: type[nn.Module], tmp_path: Path) -> None:
    model, example, signature = make(kind)
    script = scripted(model, example, signature)
    for export, load in ((export_onnx, load_onnx), (export_program, load_script), (export_torchscript, load_script)):
        export(script, example, signature, tmp_path / "model.pt2")
        assert_parity(load(tmp_path / "model.pt2", signature), model, signature)


def test_the_form_names_its_exporter(tmp_path: Path) -> None:
    model, example, signature = make(Mlp)
    assert export_onnx(model, example, signature, tmp_path / "m.pt2").startswith("torch.onnx dynamo, opset ")
    assert "torch.jit.script" in export_torchscript(model, example, signature, tmp_path / "m.pt2")
    assert export_program(model, example, signature, tmp_path / "m.pt2").startswith("torch.export")
    assert export_torchscript(scripted(model, example, signature), example, signature, tmp_path / "m.pt2").startswith(
        "TorchScript"
    )


def test_archives_carry_the_signature(tmp_path: Path) -> None:
    model, example, signature = make(Mlp)
    extra = {"signature.json": ""}
    export_program(model, example, signature, tmp_path / "m.pt2")
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    assert Signature.model_validate_json(extra["signature.json"]) == signature
    export_torchscript(model, example, signature, tmp_path / "m.ts")
    extra = {"signature.json": ""}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        torch.jit.load(tmp_path / "m.ts", _extra_files=extra)
    read = extra["signature.json"]
    assert Signature.model_validate_json(read) == signature


def test_onnx_names_come_from_the_signature(tmp_path: Path) -> None:
    model, example, signature = make(MODELS[1])
    export_onnx(model, example, signature, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"left": ["batch", 6], "right": ["batch", 3], "hidden": ["batch", 4], "total": ["batch"]}


class Averages(nn.Module):
    """Averages over a second dynamic dimension."""

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return series.mean(1)


def test_a_second_dynamic_dimension_stays_dynamic(tmp_path: Path) -> None:
    signature = Signature(inputs=(spec("series", -1, -1, 3),), outputs=(spec("mean", -1, 3),))
    short, longer = (np.random.default_rng(0).random((4, n, 3), dtype="float32") for n in (5, 9))
    for export, load in ((export_program, load_program), (export_torchscript, load_script), (export_onnx, load_onnx)):
        export(Averages(), {"series": short}, signature, tmp_path / "m.pt2")
        found = load(tmp_path / "m.pt2", signature)({"series": longer})[0]
        np.testing.assert_allclose(found, longer.mean(1), atol=1e-6)
    dims = onnx.load(tmp_path / "m.pt2").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims] == ["batch", "series_dim1", ""]


@pytest.mark.parametrize("export", EXPORTS)
def test_a_dimension_that_the_export_fixes_is_refused(export: Callable[..., str], tmp_path: Path) -> None:
    """``torch.export`` unrolls an LSTM over time, and fixes the number of steps without a word."""
    model, example, _ = make(TextNet)
    signature = Signature(inputs=(spec("ids", -1, -1, dtype="int64"),), outputs=(spec("logits", -1, 3),))
    with pytest.raises(BadInputError, match="'ids' is fixed to size 5 in dimension 1"):
        export(model, example, signature, tmp_path / "m.pt2")


def test_onnx_bytes_are_the_same_each_time_and_hold_no_source_path(tmp_path: Path) -> None:
    model, example, signature = make(TextNet)
    for module in (loaded_program(model, example, signature), scripted(model, example, signature)):
        for name in ("one", "two"):
            export_onnx(module, example, signature, tmp_path / name)
        content = (tmp_path / "one").read_bytes()
        assert content == (tmp_path / "two").read_bytes()
        assert b".py" not in content
        assert b"stack_trace" not in content


def test_program_bytes_are_the_same_each_time_and_hold_no_source_path(tmp_path: Path) -> None:
    model, example, signature = make(ResidualNet)
    program = loaded_program(model, example, signature)
    for name in ("one.pt2", "two.pt2"):
        export_program(program, example, signature, tmp_path / name)
    content = (tmp_path / "one.pt2").read_bytes()
    assert content == (tmp_path / "two.pt2").read_bytes()
    assert b".py" not in content
    assert b"graph_id" not in content


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_program_logged_with_a_batch_of_one_is_refused(export: Callable[..., str], rows: int, tmp_path: Path) -> None:
    """MLflow exports a size-1 example as a static batch although the signature says -1."""
    model, _, signature = make(ResidualNet)
    static = torch.export.export(model, (torch.zeros(1, 1, 8, 8),)).module()
    with pytest.raises(BadInputError, match="log it with an input_example of batch >= 2"):
        export(static, batch_of(signature, rows), signature, tmp_path / "m.pt2")
    assert not (tmp_path / "m.pt2").exists()


@pytest.mark.parametrize("export", EXPORTS)
def test_wrong_examples_and_signatures_are_refused(export: Callable[..., str], tmp_path: Path) -> None:
    model, example, signature = make(Mlp)
    out = tmp_path / "m"
    with pytest.raises(BadInputError, match="lacks input 'features'; it has image"):
        export(model, {"image": example["features"]}, signature, out)
    with pytest.raises(BadInputError, match="is float64 of shape"):
        export(model, {"features": example["features"].astype("float64")}, signature, out)
    with pytest.raises(BadInputError, match="does not run on its example"):
        export(model, {"features": example["features"][:, :3]}, signature, out)
    two = signature.model_copy(update={"outputs": (spec("a", -1, 5), spec("b", -1, 5))})
    with pytest.raises(BadInputError, match="returns 1 values, its signature names 2 outputs"):
        export(model, example, two, out)


class Branching(nn.Module):
    """Chooses by the input's values, which no exported graph can."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features if features.sum() > 0 else -features


@pytest.mark.parametrize("export", EXPORTS)
def test_a_model_that_cannot_be_captured_is_rejected_in_one_line(export: Callable[..., str], tmp_path: Path) -> None:
    _, example, signature = make(Mlp)
    with pytest.raises(RejectedError, match="cannot be exported") as caught:
        export(Branching(), example, signature, tmp_path / "m.pt2")
    assert "\n" not in str(caught.value)


class Inverse(nn.Module):
    """Uses an operator that ONNX does not have."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(features.unsqueeze(-1) * features.unsqueeze(-2))


@pytest.mark.parametrize("script", [False, True])
def test_an_operator_without_onnx_form_is_rejected_and_named(
    script: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, example, signature = make(Mlp)
    signature = signature.model_copy(update={"outputs": (spec("values", -1, 64),)})
    module = scripted(Inverse(), example, signature) if script else Inverse()
    with pytest.raises(RejectedError, match=r"cannot be exported to ONNX: .*linalg_eig"):
        export_onnx(module, example, signature, tmp_path / "m.pt2")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("script", [False, True])
def test_weights_that_one_onnx_file_cannot_hold_are_refused(
    script: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, example, signature = make(Mlp)
    weights_bytes = sum(4 * one.numel() for one in model.state_dict().values())
    module = scripted(model, example, signature) if script else model
    monkeypatch.setattr(onnx_export, "LARGEST_BYTES", weights_bytes)
    export_onnx(module, example, signature, tmp_path / "m.onnx")
    monkeypatch.setattr(onnx_export, "LARGEST_BYTES", weights_bytes - 1)
    with pytest.raises(UnsupportedError, match=f"weights take {weights_bytes:,} bytes, .* use an engine"):
        export_onnx(module, example, signature, tmp_path / "refused.onnx")
    assert not (tmp_path / "refused.onnx").exists()


@pytest.mark.parametrize("script", [False, True])
def test_a_good_export_prints_nothing(script: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, example, signature = make(Mlp)
    export_onnx(scripted(model, example, signature) if script else model, example, signature, tmp_path / "m.pt2")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


class Sizes(nn.Module):
    """Computes with sizes as numbers."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        rows = features.shape[0]
        ones = torch.ones(rows, 1) * rows**0.5
        return (
            features.reshape(rows * 4, -1).view(rows, -1).masked_fill(features > 3, float("-inf")) / ones / max(rows, 2)
        )


def test_torchscript_computes_with_sizes(tmp_path: Path) -> None:
    _, _, signature = make(Mlp)
    signature = signature.model_copy(update={"outputs": (spec("scaled", -1, 64),)})
    export_torchscript(Sizes(), batch_of(signature, 4), signature, tmp_path / "m.pt2")
    assert_parity(load_script(tmp_path / "m.pt2", signature), Sizes(), signature)
