"""Which of PyTorch's nested operators make a layer, and what is told of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.engines import engine
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.torch_eager import load_module
from slipway.engines.torch_profile import CALL, MOST_CALLS, _layers, calls_of, gpu_times_us, profile_session
from slipway.engines.torch_session import TorchSession
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.records import Layer, Profile, Signature, TensorSpec


def profiled(module: nn.Module, *shape: int, folder: Path, calls: int = 3) -> Profile:
    """A profile of eager PyTorch on one example of ``shape``."""
    signature = signature_of(*shape)
    arrays = {"x": np.ones((1, *shape), "float32")}
    with TorchSession(module.eval(), signature, threads=1) as session:
        return profile_session(session, arrays, calls, 1, folder / "trace.json")


def signature_of(*shape: int) -> Signature:
    return Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, *shape)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),),
    )


def multiplying(profile: Profile) -> list[Layer]:
    return [layer for layer in profile.layers if layer.multiplies]


def test_layers_are_what_the_program_calls_numbered_as_in_its_graph(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU())
    layers = profiled(module, 8, folder=tmp_path).layers
    assert [layer.name for layer in layers] == ["linear", "relu", "linear_1", "relu_1"]
    assert [layer.multiplies for layer in layers] == [True, False, True, False]
    assert {layer.precision for layer in layers} == {"fp32"}


def test_a_convolution_is_one_layer_named_by_the_kernel_that_ran(tmp_path: Path) -> None:
    """Six nested operators take part; which kernel PyTorch chose at the end explains most of its time."""
    module = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16, 4))
    convolution, linear = multiplying(profiled(module, 16, 3, 3, folder=tmp_path))
    assert convolution.name == "conv2d"
    assert "conv" in convolution.kind
    assert convolution.kind not in ("conv2d", "convolution", "_convolution")
    assert linear.kind == "addmm"


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0][:, -1])


def test_a_recurrent_layer_is_one_layer(tmp_path: Path) -> None:
    layers = multiplying(profiled(Lstm(), 5, 8, folder=tmp_path))
    assert [layer.name for layer in layers] == ["lstm", "linear"]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inwards, self.head = nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.inwards(x).chunk(3, -1)
        mixed = torch.softmax(query @ key.transpose(1, 2), -1) @ value
        return self.head(nn.functional.scaled_dot_product_attention(mixed, key, value).mean(1))


def test_products_without_weights_are_told_apart(tmp_path: Path) -> None:
    layers = multiplying(profiled(Attention(), 5, 8, folder=tmp_path))
    assert [layer.kind.endswith(" of activations") for layer in layers] == [False, True, True, True, False]


def test_a_word_that_only_looks_like_multiplying_is_none(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Flatten(), nn.Linear(16, 4))
    assert [layer.name for layer in multiplying(profiled(module, 1, 2, 2, folder=tmp_path))] == ["linear"]


def test_torchscripts_convolutions_are_told_though_its_profiler_does_not_see_them(tmp_path: Path) -> None:
    """So are the reorders of their weights, which it repeats on every call."""
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 4))
    signature, arrays = signature_of(3, 8, 8), {"x": np.ones((2, 3, 8, 8), "float32")}
    export_program(module.eval(), arrays, signature, tmp_path / "source.pt2")
    export_torchscript(load_module(tmp_path / "source.pt2"), arrays, signature, tmp_path / "source.ts")
    script = engine("torchscript")
    script.build(tmp_path / "source.ts", tmp_path / "it.ts", BuildOptions(variant="fp32", signature=signature))
    found = script.profile(tmp_path / "it.ts", RunOptions(), arrays, 3, tmp_path / "trace.json")
    kinds = Counter(layer.kind for layer in found.layers)
    assert kinds["onednn::convolution"] == 2
    assert kinds["onednn::reorder"] >= 1
    assert [layer.name for layer in multiplying(found)][:2] == ["convolution", "convolution_1"]
    assert kinds["relu"] + kinds["relu_"] == 1
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert any(event.get("cat") == "onednn" and event["name"] == "convolution" for event in events)


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (7, 7), (500, MOST_CALLS)])
def test_calls_are_bounded_and_told(asked: int, made: int, tmp_path: Path) -> None:
    found = profiled(nn.Linear(8, 4), 8, folder=tmp_path, calls=asked)
    assert (found.calls, found.tool, found.batch) == (made, "torch.profiler", 1)


def test_on_a_gpu_a_layer_takes_what_its_kernels_take() -> None:
    """The CPU has left an operator long before the GPU has done it. Kernels name the innermost operator by its id."""

    def event(name: str, category: str, start: float, length: float, **args: object) -> dict[str, object]:
        return {"name": name, "cat": category, "ph": "X", "ts": start, "dur": length, "tid": 1, "args": args}

    half = ["c10::BFloat16"]
    events = [
        event(CALL, "user_annotation", 0, 100),
        event("aten::conv2d", "cpu_op", 10, 20, **{"External id": 1, "Input type": half}),
        event("aten::cudnn_convolution", "cpu_op", 12, 10, **{"External id": 2, "Input type": half}),
        event("aten::relu", "cpu_op", 40, 5, **{"External id": 3, "Input type": half}),
        event("nchwToNhwc", "kernel", 200, 30, **{"External id": 2}),
        event("implicit_gemm", "kernel", 230, 500, **{"External id": 2}),
        event("elementwise", "kernel", 730, 40, **{"External id": 3}),
    ]
    (call,) = calls_of(events)
    told = [(layer.name, layer.kind, layer.precision, layer.time_us) for layer in _layers(call, gpu_times_us(events))]
    assert told == [("conv2d", "cudnn_convolution", "bf16", 530.0), ("relu", "relu", "bf16", 40.0)]
    on_cpu = [layer.time_us for layer in _layers(call, gpu_times_us(events[:4]))]
    assert on_cpu == [20.0, 5.0]
