"""Engine ``torch`` set to a GPU: refused where there is none; its session on the CPU, with graphs by a stand-in."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.config import Params
from slipway.engines import check_settings, engine
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.torch_archive import load_program
from slipway.engines.torch_cuda import LABEL_FILE, MOST_GRAPHS, CudaLabel, CudaSession, computing, module_on, use_tf32
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Signature, TensorSpec, Verdict
from slipway.wiring import check_targets
from tests.unit.engines import cuda_stand_in, nvidia_driver

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(-1, -1)),
        TensorSpec(name="scale", dtype="int64", shape=(-1, 1)),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, -1)),),
)
ON_GPU = {"device": "cuda", "cuda_graphs": True}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_driver.plug_in(monkeypatch, None)


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * scale + 1


def arrays(batch: int, width: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((batch, width)).astype("float32"),
        "scale": rng.integers(1, 9, (batch, 1)),
    }


def expected(given: dict[str, np.ndarray]) -> np.ndarray:
    return np.maximum(given["x"], 0) * given["scale"].astype("float32") + 1


def session(*graph_batches: int) -> CudaSession:
    label = CudaLabel(graph_batches=graph_batches)
    return CudaSession(Scaled(), SIGNATURE, 1, label, device="cpu")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.pt2"
    dynamic = {"x": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}, "scale": {0: torch.export.Dim.AUTO}}
    given = {name: torch.from_numpy(array) for name, array in arrays(2).items()}
    torch.export.save(torch.export.export(Scaled(), tuple(given.values()), dynamic_shapes=dynamic), path)
    return path


def test_a_release_on_a_host_without_a_gpu_is_refused_before_any_work() -> None:
    """As for an engine that is not available: nothing is fetched, exported or built."""
    params = Params.model_validate(
        {
            "model": "models:/m/1",
            "data": {"test": "data/test"},
            "targets": {"gpu": {"engines": ["torch"], "settings": {"torch": ON_GPU}}},
        }
    )
    with pytest.raises(UnsupportedError, match=r"^engine torch cannot run here: no NVIDIA GPU: .*work_pool.* cpu"):
        check_targets(params)
    elsewhere = params.targets["gpu"].model_copy(update={"work_pool": "gpus"})
    asked = params.model_copy(update={"targets": {"gpu": elsewhere}})
    assert check_targets(asked) == asked


def test_a_build_without_a_gpu_is_refused_and_writes_nothing(program: Path, tmp_path: Path) -> None:
    """What a worker without one comes to: the candidate is SKIPPED."""
    options = BuildOptions(variant="fp32", signature=SIGNATURE, settings=ON_GPU)
    with pytest.raises(UnsupportedError, match="no NVIDIA GPU") as caught:
        engine("torch").build(program, tmp_path / "out.pt2", options)
    assert Verdict.of_error(caught.value) is Verdict.SKIPPED
    assert not (tmp_path / "out.pt2").exists()


def test_a_pytorch_without_cuda_is_told_from_a_host_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_driver.plug_in(monkeypatch, nvidia_driver.Driver())
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UnsupportedError, match="is built without CUDA; install its CUDA build; attach"):
        check_settings("torch", {"device": "cuda"})
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match=r"built for CUDA 13\.0, does not reach the GPU; look at the driver"):
        check_settings("torch", {"device": "cuda"})


@pytest.mark.parametrize("setting", ["cuda_graphs", "tf32"])
def test_what_is_for_a_gpu_is_refused_without_one_being_set(setting: str) -> None:
    with pytest.raises(BadInputError, match=f"setting '{setting}': it is for a GPU: set device: cuda too"):
        check_settings("torch", {setting: True})


def test_wrong_keys_are_told_before_a_missing_gpu() -> None:
    """A target elsewhere is checked where it is asked for, as far as can be without its hardware."""
    with pytest.raises(BadInputError, match="has no setting 'cuda_graph', did you mean 'cuda_graphs'"):
        check_settings("torch", {"device": "cuda", "cuda_graph": True})


@pytest.fixture
def built(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for a GPU, built as if there were one."""
    with monkeypatch.context() as with_gpu:
        with_gpu.setattr("slipway.engines.torch_eager.require_cuda", lambda _: None)
        options = BuildOptions(variant="fp32", signature=SIGNATURE, batch=(1, 8), settings={**ON_GPU, "tf32": True})
        told = engine("torch").build(program, tmp_path / "gpu.pt2", options)
    assert told == {"device": "cuda", "cuda_graphs": "of batch 1, 8; any other runs eagerly", "tf32": True}
    return tmp_path / "gpu.pt2"


def test_a_file_says_what_it_was_built_for_and_runs_nowhere_else(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(LABEL_FILE))
        label = CudaLabel.model_validate_json(archive.read(member))
    assert label == CudaLabel(graph_batches=(1, 8), tf32=True)
    assert load_program("torch", built).example_inputs is not None  # and it is a program of PyTorch's own
    with pytest.raises(UnsupportedError, match=r"^engine torch cannot run here: no NVIDIA GPU"):
        engine("torch").load(built, RunOptions())
    with pytest.raises(UnsupportedError, match=r"^engine torch cannot run here: no NVIDIA GPU"):
        engine("torch").profile(built, RunOptions(), arrays(1), 1, tmp_path / "trace.json")


def test_a_file_for_the_cpu_carries_no_label(program: Path, tmp_path: Path) -> None:
    plain, spelled = tmp_path / "plain.pt2", tmp_path / "spelled.pt2"
    for out, settings in ((plain, {}), (spelled, {"device": "cpu", "cuda_graphs": False})):
        engine("torch").build(program, out, BuildOptions(variant="fp32", signature=SIGNATURE, settings=settings))
    assert plain.read_bytes() == spelled.read_bytes()
    with zipfile.ZipFile(plain) as archive:
        assert not [name for name in archive.namelist() if name.endswith(LABEL_FILE)]


def test_answers_are_right_and_the_callers_own_while_buffers_are_reused() -> None:
    with session() as one:
        first = one.infer(arrays(5, seed=1))["y"]
        kept = first.copy()
        for batch, width in ((2, 3), (64, 7), (1, 1), (0, 4)):
            given = arrays(batch, width, seed=batch)
            for array in given.values():
                array.flags.writeable = False
            np.testing.assert_allclose(one.infer(given)["y"], expected(given), rtol=1e-6)
    np.testing.assert_array_equal(first, kept)


def test_batches_of_the_label_are_captured_once_per_shape_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = cuda_stand_in.plug_in(monkeypatch)
    with session(1, 8) as one:
        for batch, width in ((1, 3), (8, 3), (5, 3), (1, 3), (1, 4), (8, 3)):
            for seed in (0, 1):
                given = arrays(batch, width, seed)
                np.testing.assert_allclose(one.infer(given)["y"], expected(given), rtol=1e-6)
    assert [graph.replays for graph in graphs] == [4, 4, 2]


def test_the_number_of_graphs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = cuda_stand_in.plug_in(monkeypatch)
    with session(2) as one:
        for width in range(1, MOST_GRAPHS + 5):
            given = arrays(2, width)
            np.testing.assert_allclose(one.infer(given)["y"], expected(given), rtol=1e-6)
    assert len(graphs) == MOST_GRAPHS


def test_what_cannot_be_captured_is_refused_and_not_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_stand_in.plug_in(monkeypatch, refused="operation not permitted when stream is capturing")
    with (
        session(1) as one,
        pytest.raises(UnsupportedError, match=r"not permitted .* capturing; unset cuda_graphs$"),
    ):
        one.infer(arrays(1))


class MakesTensors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.arange(3, device=x.device) + torch.zeros(3) + torch.tensor([1.0, 2.0, 3.0])
        return self.linear(x) + self.shift + made


def test_a_program_moves_with_all_that_it_makes() -> None:
    """To PyTorch's device without memory, which refuses tensors of another device as a GPU does."""
    program = torch.export.export(MakesTensors(), (torch.ones(2, 3),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    assert module_on(program, "meta")(torch.ones(5, 3, device="meta")).device.type == "meta"


def test_tf32_is_set_so_that_torch_export_still_works() -> None:
    """After the newer of PyTorch's two ways to say it, torch.export cannot ask for it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for wanted in (True, False):
            use_tf32(wanted)
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (wanted, wanted)
            torch.export.export(nn.ReLU(), (torch.ones(2),))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_calls_with_tf32_and_without_take_turns_and_those_of_a_kind_go_together() -> None:
    def call(tf32: bool) -> bool:
        with computing(tf32):
            return torch.backends.cuda.matmul.allow_tf32

    with ThreadPoolExecutor(2) as others:
        with computing(True):
            assert others.submit(call, True).result(timeout=60)
            without = others.submit(call, False)
            with pytest.raises(TimeoutError):
                without.result(timeout=0.2)
            assert torch.backends.cuda.matmul.allow_tf32
        assert not without.result(timeout=60)
