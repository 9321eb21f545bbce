"""The engine ``tensorrt-rtx``: built here for real, without a GPU; run by none of these tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import ValidationError

from slipway.engines import check_settings
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.tensorrt_file import read_file, write_file
from slipway.engines.tensorrt_rtx import NAME, TensorRtRtxEngine, TensorRtRtxSettings
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Option, Signature, TensorSpec
from tests.contract.engines.tiny import TinyModel, residual, transformer, two_towers
from tests.unit.engines import qdq_models
from tests.unit.engines.nvidia_driver import Driver, plug_in
from tests.unit.engines.onnx_models import save_convolution, save_products, signature

SMALL = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3, 4, 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 2, 2, 2)),),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution in fp32."""
    folder = tmp_path_factory.mktemp("rtx")
    _build(save_convolution(folder / "model.onnx"), folder / "model.engine")
    return folder / "model.engine"


def test_available_without_a_gpu_and_without_importing_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    found = TensorRtRtxEngine().availability()
    assert (found.available, found.runs) == (True, False)
    assert found.reason is not None
    assert "libcuda.so.1 is not found on this host; its files run on NVIDIA RTX GPUs of compute" in found.reason


@pytest.mark.parametrize(("capability", "runs"), [((8, 9), True), ((12, 0), True), ((9, 0), False), ((6, 1), False)])
def test_runs_on_gpus_that_the_library_knows(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool
) -> None:
    plug_in(monkeypatch, Driver(capability))
    found = TensorRtRtxEngine().availability()
    assert (found.available, found.runs) == (True, runs)
    if not runs:
        assert found.reason is not None
        assert found.reason.startswith(f"NVIDIA Test has compute capability {capability[0]}.{capability[1]}; its files")
        assert "8.9, 12.0" in found.reason


def test_file_is_labelled_with_what_it_wants(built: Path) -> None:
    label, plan = read_file(NAME, built)
    assert (label.engine, label.capabilities, label.max_batch) == (NAME, ("8.9",), 8)
    assert label.signature == signature()
    assert len(plan) > 10_000


@pytest.mark.parametrize(("here", "built_for"), [((12, 0), "12.0"), ((9, 0), "8.9")])
def test_built_for_the_gpu_that_is_here_if_the_library_knows_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here: tuple[int, int], built_for: str
) -> None:
    plug_in(monkeypatch, Driver(here))
    _build(save_convolution(tmp_path / "model.onnx"), tmp_path / "out", settings={"compute_capabilities": None})
    assert read_file(NAME, tmp_path / "out")[0].capabilities == (built_for,)


def test_one_file_for_several_capabilities(tmp_path: Path, built: Path) -> None:
    source = save_convolution(tmp_path / "model.onnx")
    told = _build(source, tmp_path / "both.engine", settings={"compute_capabilities": ["12.0", "8.9"]})
    assert told["compute_capabilities"] == "8.9, 12.0"
    assert read_file(NAME, tmp_path / "both.engine")[0].capabilities == ("8.9", "12.0")
    assert read_file(NAME, tmp_path / "both.engine")[1] != read_file(NAME, built)[1]


def test_options_tell_shapes_and_types(tmp_path: Path) -> None:
    told = _build(save_convolution(tmp_path / "model.onnx"), tmp_path / "out", settings={"max_batch": 16, "tf32": True})
    assert told == {"shapes.x": "1x3x8x8 / 1x3x8x8 / 16x3x8x8", "tf32": True, "compute_capabilities": "8.9"}


def test_quantized_file_is_respelled_and_built(tmp_path: Path) -> None:
    """As it is, the parser refuses its s32 biases and its u8 activations."""
    source = tmp_path / "u8.onnx"
    onnx.save(qdq_models.convolution(), source)
    told = _build(source, tmp_path / "out", variant="int8-static", given=SMALL)
    assert told["activations"] == "s8 symmetric"


def test_bf16_is_another_plan_than_fp32(tmp_path: Path) -> None:
    source = tmp_path / "fp32.onnx"
    onnx.save(qdq_models.of_floats(), source)
    told = _build(source, tmp_path / "bf16", variant="bf16", given=SMALL)
    _build(source, tmp_path / "fp32", given=SMALL)
    assert told["kept_in_fp32"] == "nothing"
    assert read_file(NAME, tmp_path / "bf16")[1] != read_file(NAME, tmp_path / "fp32")[1]


def test_dynamic_dimension_beside_the_batch_is_built_with_its_range_and_refused_without(tmp_path: Path) -> None:
    source, given = _of_tokens(tmp_path / "tokens.onnx")
    with pytest.raises(
        UnsupportedError, match=r"^engine tensorrt-rtx needs a range for dimension 1 of input x \[-1, -1"
    ):
        _build(source, tmp_path / "out", given=given)
    told = _build(source, tmp_path / "out", given=given, settings={"dimensions": {"x.1": [1, 16, 64]}})
    assert told["shapes.x"] == "1x1x8 / 1x16x8 / 8x64x8"


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    source = save_convolution(tmp_path / "unknown.onnx", operator="Frobnicate")
    with pytest.raises(UnsupportedError, match=r"^engine tensorrt-rtx cannot execute this model: .*Frobnicate[^\n]*$"):
        _build(source, tmp_path / "out")


def test_model_that_contradicts_itself_is_refused_in_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    source = tmp_path / "wrong.onnx"
    onnx.save(qdq_models.model(nodes, {"w": np.ones((3, 8), np.float32)}, (8,), (8,)), source)
    given = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 8)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 8)),),
    )
    with pytest.raises(UnsupportedError, match=r"^engine tensorrt-rtx cannot execute this model: [^\n]*product[^\n]*$"):
        _build(source, tmp_path / "out", given=given)


def test_names_other_than_the_signatures_are_refused(tmp_path: Path) -> None:
    source = save_convolution(tmp_path / "model.onnx")
    with pytest.raises(BadInputError, match=r"^the model's signature has outputs z, model\.onnx has y"):
        _build(source, tmp_path / "out", given=signature(output="z"))


def test_type_other_than_the_signatures_is_refused(tmp_path: Path) -> None:
    source = save_convolution(tmp_path / "fp16.onnx", TensorProto.FLOAT16)
    with pytest.raises(UnsupportedError, match="takes x as half, the signature says float32"):
        _build(source, tmp_path / "out", variant="fp16")


def test_branches_are_built(tmp_path: Path) -> None:
    source = save_products(tmp_path / "if.onnx")
    given = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(2, 2)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(2, 2)),),
    )
    assert "shapes.x" not in _build(source, tmp_path / "out", given=given)


@pytest.mark.integration
@pytest.mark.parametrize("make", [residual, two_towers, transformer])
def test_the_contracts_models_are_built_in_every_variant(make: Callable[[Path], TinyModel], tmp_path: Path) -> None:
    """With attention's products of activations and layer norms in int8's file too, as ONNX Runtime quantizes all."""
    model = make(tmp_path)
    for variant in ("fp32", "bf16", "int8-static"):
        source, out = model.files[TensorRtRtxEngine.form, variant], tmp_path / variant
        _build(source, out, variant=variant, given=model.signature)
        assert read_file(NAME, out)[0].signature == model.signature


@pytest.mark.parametrize("wrong", [["9.0"], ["8.9", "sm_80"], []])
def test_capability_that_the_library_lacks_is_refused_with_those_it_has(wrong: list[str]) -> None:
    with pytest.raises(ValidationError):
        TensorRtRtxSettings.model_validate({"compute_capabilities": wrong})
    if wrong:
        message = rf"has no compute capability {wrong[-1]}; known: 7\.5, 8\.0, 8\.6, 8\.9, 12\.0, 12\.1"
        with pytest.raises(BadInputError, match=message):
            check_settings(NAME, {"compute_capabilities": wrong})


def test_file_for_other_hardware_says_what_it_wants(monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    plug_in(monkeypatch, Driver((12, 0)))
    message = (
        r"^engine tensorrt-rtx cannot run here: NVIDIA Test has compute capability 12\.0; its file wants an NVIDIA GPU "
        r"of compute capability 8\.9; attach a Prefect worker on such a host \(targets\.T\.work_pool\)"
    )
    with pytest.raises(UnsupportedError, match=message):
        TensorRtRtxEngine().load(built, RunOptions())


def test_file_of_another_version_is_not_run(monkeypatch: pytest.MonkeyPatch, built: Path, tmp_path: Path) -> None:
    plug_in(monkeypatch, Driver((8, 9)))
    label, plan = read_file(NAME, built)
    write_file(tmp_path / "older", label.model_copy(update={"version": "1.0"}), plan)
    with pytest.raises(UnsupportedError, match=r"cannot run here: its file was built by version 1\.0, and 1\."):
        TensorRtRtxEngine().load(tmp_path / "older", RunOptions())


def test_damaged_file_is_refused_before_its_hardware_is_missed(
    monkeypatch: pytest.MonkeyPatch, built: Path, tmp_path: Path
) -> None:
    plug_in(monkeypatch, None)
    (tmp_path / "half").write_bytes(built.read_bytes()[: built.stat().st_size // 2])
    with pytest.raises(BadInputError, match=r"^engine tensorrt-rtx wants .* found .*; build the candidate again$"):
        TensorRtRtxEngine().load(tmp_path / "half", RunOptions())
    with pytest.raises(BadInputError, match=r"^engine tensorrt-rtx wants "):
        TensorRtRtxEngine().profile(tmp_path / "half", RunOptions(), {}, calls=1, trace=tmp_path / "trace.json")


def _build(
    source: Path,
    out: Path,
    *,
    variant: str = "fp32",
    given: Signature | None = None,
    settings: dict[str, object] | None = None,
) -> dict[str, Option]:
    settings = {"compute_capabilities": ["8.9"], **(settings or {})}
    options = BuildOptions(variant=variant, signature=given or signature(), batch=(1, 8), settings=settings)
    return TensorRtRtxEngine().build(source, out, options)


def _of_tokens(path: Path) -> tuple[Path, Signature]:
    """``y = relu(x)``, x [N, length, 8]."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", "length", 8)) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tokens", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    specs = [TensorSpec(name=name, dtype="float32", shape=(-1, -1, 8)) for name in ("x", "y")]
    return path, Signature(inputs=(specs[0],), outputs=(specs[1],))
