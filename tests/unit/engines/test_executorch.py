"""What is particular to ExecuTorch; the rest is its contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.executorch import ExecuTorchEngine
from slipway.engines.executorch_file import Label, read_labelled, write_labelled
from slipway.engines.executorch_profile import precision_in
from slipway.engines.executorch_runtime import ExecuTorchSession, runtime
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Signature, TensorSpec

PROGRAM = b"\0\0\0\0ET12" + bytes(range(256))
needs_the_compiler = pytest.mark.integration  # importing it takes seconds, and so does each build


class Net(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.convolution(x)).mean((2, 3), keepdim=True).flatten(1))


class Tokens(nn.Module):
    """A linear layer over a sequence of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


class Inverse(nn.Module):
    """Computes what no kernel of ExecuTorch does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.inv(x) @ x


class InFloat16(nn.Module):
    """Computes in float16, with fp32 inputs and outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x.half()).float()


def signature(given: tuple[int, ...] = (3, 8, 8), answer: tuple[int, ...] = (5,)) -> Signature:
    def spec(name: str, shape: tuple[int, ...]) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=(-1, *shape))

    return Signature(inputs=(spec("x", given),), outputs=(spec("y", answer),))


def export(module: nn.Module, path: Path, shape: tuple[int, ...], axes: tuple[int, ...] = (0,)) -> Path:
    dynamic = dict.fromkeys(axes, torch.export.Dim.AUTO)
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(shape),), dynamic_shapes=(dynamic,)), path)
    return path


def options(variant: str = "fp32", **changed: Any) -> BuildOptions:
    return BuildOptions(**({"variant": variant, "signature": signature()} | changed))


def images(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(count).standard_normal((count, 3, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def answer(net: Net) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    def answered(arrays: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(arrays["x"])).numpy()

    return answered


@pytest.fixture(scope="module")
def built(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executorch")
    source, out = export(net, folder / "net.pt2", (2, 3, 8, 8)), folder / "net.pte"
    assert ExecuTorchEngine().build(source, out, options()) == {"delegated": "4/5", "largest_batch": 32}
    return out


def test_the_label_behind_a_program_tells_its_signature(tmp_path: Path) -> None:
    write_labelled(PROGRAM, signature(), "fp16", tmp_path / "m.pte")
    program, label = read_labelled("executorch", tmp_path / "m.pte")
    assert program == PROGRAM
    assert (tmp_path / "m.pte").read_bytes().startswith(PROGRAM)
    assert label == Label(signature=signature(), portable="fp16", digest=label.digest)


@pytest.mark.parametrize("place", [5, 100, 264, 300, -14, -20, -1], ids=str)
def test_one_changed_byte_is_refused_before_the_runtime_sees_it(place: int, tmp_path: Path) -> None:
    write_labelled(PROGRAM, signature(), "fp32", tmp_path / "m.pte")
    content = bytearray((tmp_path / "m.pte").read_bytes())
    content[place] ^= 0x80
    (tmp_path / "m.pte").write_bytes(content)
    with pytest.raises(
        BadInputError, match=r"wants a \.pte file that this engine built at .* build the candidate again"
    ):
        ExecuTorchEngine().load(tmp_path / "m.pte", RunOptions())


def test_another_flatbuffer_is_refused_though_it_is_whole(tmp_path: Path) -> None:
    write_labelled(PROGRAM.replace(b"ET12", b"TFL3"), signature(), "fp32", tmp_path / "m.pte")
    with pytest.raises(BadInputError, match=r"wants a \.pte file"):
        ExecuTorchEngine().load(tmp_path / "m.pte", RunOptions())


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("Convolution (NHWC, F32) IGEMM", "fp32"),
        ("Convolution (NHWC, QC8) IGEMM", "int8"),
        ("Fully Connected (NC, QS8, QC8W) GEMM", "int8"),
        ("Fully Connected (NC, QD8, F32, QC8W) GEMM", "int8"),
        ("Fully Connected (NC, F16) GEMM", "fp16"),
        ("Transpose (ND, X32)", "none"),
        ("Add (ND)", "none"),
    ],
)
def test_precision_is_read_from_the_name_of_a_kernel(kind: str, precision: str) -> None:
    assert precision_in(kind) == precision


def test_a_model_registered_as_torchscript_has_no_program(net: Net, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.trace(net, torch.zeros(2, 3, 8, 8)).save(tmp_path / "net.ts")
    with pytest.raises(UnsupportedError, match="was registered as TorchScript; log it in MLflow's default pt2 format"):
        ExecuTorchEngine().build(tmp_path / "net.ts", tmp_path / "out", options())


def test_another_number_of_outputs_than_the_signatures_is_refused(net: Net, tmp_path: Path) -> None:
    source = export(net, tmp_path / "net.pt2", (2, 3, 8, 8))
    two = Signature(inputs=signature().inputs, outputs=signature().outputs * 2)
    with pytest.raises(BadInputError, match="signature has 1 inputs and 2 outputs, its program 1 and 1"):
        ExecuTorchEngine().build(source, tmp_path / "out", options(signature=two))


def test_a_size_without_a_bound_is_refused_naming_the_setting(tmp_path: Path) -> None:
    source = export(Tokens(), tmp_path / "tokens.pt2", (2, 6, 4), axes=(0, 1))
    anything = options(signature=signature((-1, 4), (-1, 3)))
    with pytest.raises(UnsupportedError, match=r"input 'x' is of any size in dimension 1; set .*executorch\.longest"):
        ExecuTorchEngine().build(source, tmp_path / "out", anything)


@needs_the_compiler
def test_a_size_with_a_bound_is_any_up_to_it(tmp_path: Path) -> None:
    module = Tokens()
    source = export(module, tmp_path / "tokens.pt2", (2, 6, 4), axes=(0, 1))
    bounded = options(signature=signature((-1, 4), (-1, 3)), settings={"longest": 9})
    ExecuTorchEngine().build(source, tmp_path / "out", bounded)
    with ExecuTorchEngine().load(tmp_path / "out", RunOptions()) as session:
        for batch, length in ((1, 9), (3, 1), (40, 5)):
            x = np.random.default_rng(0).standard_normal((batch, length, 4)).astype(np.float32)
            expected = module(torch.from_numpy(x)).detach().numpy()
            np.testing.assert_allclose(session.infer({"x": x})["y"], expected, atol=1e-6)


@needs_the_compiler
@pytest.mark.parametrize("count", [31, 32, 33, 70])
def test_a_batch_above_the_planned_one_goes_in_parts(
    count: int, built: Path, answer: Callable[[dict[str, np.ndarray]], np.ndarray]
) -> None:
    with ExecuTorchEngine().load(built, RunOptions()) as session:
        assert session.largest_batch == 32
        np.testing.assert_allclose(session.infer(images(count))["y"], answer(images(count)), atol=1e-6)


@needs_the_compiler
def test_memory_is_planned_for_the_largest_batch_asked_for(net: Net, tmp_path: Path) -> None:
    source = export(net, tmp_path / "net.pt2", (2, 3, 8, 8))
    assert ExecuTorchEngine().build(source, tmp_path / "out", options(batch=(1, 48)))["largest_batch"] == 48
    with ExecuTorchEngine().load(tmp_path / "out", RunOptions()) as session:
        assert session.largest_batch == 48


@needs_the_compiler
def test_parts_of_a_batch_are_one_call_of_the_profile(built: Path, tmp_path: Path) -> None:
    profile = ExecuTorchEngine().profile(built, RunOptions(), images(70), calls=4, trace=tmp_path / "trace.json")
    assert [layer.kind for layer in profile.layers if layer.multiplies] == [
        "Convolution (NHWC, F32) IGEMM",
        "Fully Connected (NC, F32) GEMM",
    ]
    assert (profile.calls, profile.batch) == (4, 70)


@needs_the_compiler
def test_sessions_of_different_threads_take_turns(
    built: Path, answer: Callable[[dict[str, np.ndarray]], np.ndarray]
) -> None:
    """They share the process's one pool, and XNNPACK's layers point to the pool that they were loaded with."""
    one, two = (ExecuTorchEngine().load(built, RunOptions(threads=threads)) for threads in (1, 2))
    with one, two:
        for turn in range(6):
            session, threads = ((one, 1), (two, 2))[turn % 2]
            np.testing.assert_allclose(session.infer(images(16))["y"], answer(images(16)), atol=1e-6)
            assert runtime()._threadpool_get_thread_count() == threads


@needs_the_compiler
def test_the_file_runs_with_its_label_in_executorch_itself(built: Path) -> None:
    program = runtime()._load_program(str(built), program_verification=runtime().Verification.InternalConsistency)
    assert program.load_method("forward")([torch.zeros(2, 3, 8, 8)])[0].shape == (2, 5)


@needs_the_compiler
def test_fp16_runs_in_float16(net: Net, answer: Callable[[dict[str, np.ndarray]], np.ndarray], tmp_path: Path) -> None:
    half = Net()
    half.load_state_dict(net.state_dict())
    source = export(InFloat16(half), tmp_path / "half.pt2", (2, 3, 8, 8))
    ExecuTorchEngine().build(source, tmp_path / "out", options("fp16"))
    with ExecuTorchEngine().load(tmp_path / "out", RunOptions()) as session:
        assert session.executed_precision() == {"fp16": 2}
        np.testing.assert_allclose(session.infer(images(8))["y"], answer(images(8)), atol=5e-3)


@needs_the_compiler
def test_a_model_that_takes_no_size_of_1_tells_no_precision(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validated in full, it must not fail for a call that nobody makes."""
    call = ExecuTorchSession._call

    def of_two_at_least(session: ExecuTorchSession, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if len(arrays["x"]) < 2:
            raise RuntimeError("method->execute() failed with error 0x12")
        return call(session, arrays)

    with ExecuTorchEngine().load(built, RunOptions()) as session:
        assert session.executed_precision() == {"fp32": 2}
        monkeypatch.setattr(ExecuTorchSession, "_call", of_two_at_least)
        assert session.executed_precision() == {}
        assert session.infer(images(2))["y"].shape == (2, 5)


@needs_the_compiler
def test_an_operator_without_a_kernel_is_named(tmp_path: Path) -> None:
    source = export(Inverse(), tmp_path / "inverse.pt2", (2, 4, 4))
    with pytest.raises(UnsupportedError, match=r"engine executorch cannot execute this model: .*inv") as caught:
        ExecuTorchEngine().build(source, tmp_path / "out", options(signature=signature((4, 4), (4, 4))))
    assert "\n" not in str(caught.value)


@needs_the_compiler
def test_a_program_that_the_runtime_does_not_take_is_unsupported(built: Path) -> None:
    """Such as one of a later version of its format."""
    program, label = read_labelled("executorch", built)
    with pytest.raises(UnsupportedError, match=r"cannot load this model: \S.*; build the candidate again$"):
        ExecuTorchSession("executorch", program[: len(program) // 2], label, 1)
