"""One operator of a real export, or of what an engine builds, is made wrong: parity says FAIL and names it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from slipway.engines import ENGINES
from slipway.engines.base import BuildOptions
from slipway.engines.openvino import OpenVinoEngine
from slipway.errors import RejectedError
from slipway.exports.onnx import translated
from slipway.exports.program import export_program
from slipway.records import (
    Built,
    CandidateSpec,
    DataSource,
    Exported,
    Form,
    ModelSource,
    Option,
    Signature,
    TensorSpec,
    VariantFile,
)
from slipway.steps import wrong_operator
from slipway.steps.build import build, reference_of
from slipway.steps.export import EXPORTERS, export
from slipway.steps.wrong_operator import in_export
from slipway.stores.datasets import examples, write_shards
from slipway.stores.objects import ObjectStore

Plant = Callable[[onnx.GraphProto], onnx.NodeProto]


class Convolutional(nn.Module):
    """Convolutions with batch normalisation and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        return self.head(torch.relu(self.block(stem) + stem).mean((2, 3)))


class Attention(nn.Module):
    """One transformer block over tokens, of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.before, self.between = nn.Embedding(20, 16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        query, key, value = self.qkv(self.before(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(query @ key.transpose(1, 2) / 4, -1) @ value)
        x = x + self.down(nn.functional.gelu(3 * self.up(self.between(x))))
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    """An LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(20, 8), nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.lstm(self.embedding(x))[0][:, -1]))


KINDS: dict[type[nn.Module], tuple[str, tuple[int, ...], int]] = {
    Convolutional: ("float32", (-1, 3, 12, 12), 10),
    Attention: ("int64", (-1, -1), 5),
    Recurrent: ("int64", (-1, 9), 3),
}


@dataclass(frozen=True)
class Model:
    """A model in the store, with its data."""

    objects: ObjectStore
    source: ModelSource
    data: DataSource

    @functools.cached_property
    def exported(self) -> Exported:
        """The sound export."""
        return export(self.objects, self.source, Form.ONNX, self.data)

    @property
    def onnx(self) -> Path:
        return self.objects.path(self.exported.artifact)

    def named_in(self, plant: Plant) -> str:
        """What is said of the export in which ``plant`` made an operator wrong."""
        file = onnx.load(self.onnx)
        plant(file.graph)
        with self.objects.new_dir() as folder:
            onnx.save(file, folder / "wrong.onnx")
            program, inputs = self.objects.path(self.source.program), examples(Path(self.data.path), ["input"], 3)
            return in_export(program, folder / "wrong.onnx", Form.ONNX, inputs, self.source.signature)

    def built(self, engine: str) -> Built:
        """The engine built from the sound export."""
        file = VariantFile(variant="fp32", form=Form.ONNX, artifact=self.exported.artifact)
        spec = CandidateSpec(target="x86", variant="fp32", engine=engine)
        reference = reference_of(self.source, "x86")
        options = BuildOptions(variant="fp32", signature=self.source.signature)
        return build(self.objects, spec, file, options, reference, self.data)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[type[nn.Module], Model]:
    return {kind: make(kind, tmp_path_factory.mktemp(kind.__name__)) for kind in KINDS}


@pytest.fixture(autouse=True, scope="module")
def _translated_once() -> Iterator[None]:
    """What the exporter translates is the same for every fault of a model, and takes seconds."""
    kept: dict[Signature, torch.fx.GraphModule] = {}

    def once(module: Any, inputs: Any, signature: Signature) -> torch.fx.GraphModule:
        if signature not in kept:
            kept[signature] = translated(module, inputs, signature)
        return kept[signature]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wrong_operator, "translated", once)
        yield


def make(kind: type[nn.Module], folder: Path) -> Model:
    dtype, shape, classes = KINDS[kind]
    size = [9 if length == -1 else length for length in shape[1:]]
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((6, *size)) if dtype == "float32" else rng.integers(0, 20, (6, *size))
    write_shards(folder / "data", {"input": drawn.astype(dtype)}, np.zeros(6, np.int64), shard_size=6)
    signature = Signature(
        inputs=(TensorSpec(name="input", dtype=dtype, shape=shape),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, classes)),),
    )
    torch.manual_seed(0)
    export_program(kind().eval(), {"input": drawn.astype(dtype)}, signature, folder / "program.pt2")
    objects = ObjectStore(folder / "objects")
    program = objects.put(folder / "program.pt2")
    source = ModelSource(
        uri="models:/m/1",
        name="m",
        version="1",
        format="pt2",
        digest=program.digest,
        program=program,
        signature=signature,
    )
    return Model(objects, source, DataSource(path=str(folder / "data"), md5="d" * 32, files=1, size_bytes=1))


def node(graph: onnx.GraphProto, kind: str, index: int = 0) -> onnx.NodeProto:
    return [found for found in graph.node if found.op_type == kind][index]


def other_kind(kind: str, index: int, new: str, **attributes: Any) -> Plant:
    def plant(graph: onnx.GraphProto) -> onnx.NodeProto:
        found = node(graph, kind, index)
        found.op_type = new
        found.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        return found

    return plant


def other_attribute(kind: str, index: int, name: str, value: Any) -> Plant:
    def plant(graph: onnx.GraphProto) -> onnx.NodeProto:
        found = node(graph, kind, index)
        kept = [attribute for attribute in found.attribute if attribute.name != name]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(name, value)])
        return found

    return plant


def other_weight(kind: str, index: int, position: int) -> Plant:
    def plant(graph: onnx.GraphProto) -> onnx.NodeProto:
        found = node(graph, kind, index)
        tensor = next(one for one in graph.initializer if one.name == found.input[position])
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += 0.5
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return found

    return plant


FAULTS: dict[str, tuple[type[nn.Module], Plant]] = {
    "Relu became LeakyRelu": (Convolutional, other_kind("Relu", 0, "LeakyRelu", alpha=0.01)),
    "the last Relu became LeakyRelu": (Convolutional, other_kind("Relu", 1, "LeakyRelu", alpha=0.01)),
    "a bias into which batch normalisation was folded": (Convolutional, other_weight("Conv", 1, 2)),
    "padding on one side": (Convolutional, other_attribute("Conv", 1, "pads", [0, 0, 2, 2])),
    "no padding, another shape": (Convolutional, other_attribute("Conv", 0, "pads", [0, 0, 0, 0])),
    "the residual sum became a difference": (Convolutional, other_kind("Add", 0, "Sub")),
    "the head's bias": (Convolutional, other_weight("Gemm", 0, 2)),
    "Softmax over queries": (Attention, other_attribute("Softmax", 0, "axis", -2)),
    "Gelu by its tanh approximation": (Attention, other_attribute("Gelu", 0, "approximate", "tanh")),
    "another epsilon": (Attention, other_attribute("LayerNormalization", 1, "epsilon", 1e-2)),
    "Tanh became Softsign": (Recurrent, other_kind("Tanh", 0, "Softsign")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_wrong_operator_of_an_export_is_named(
    fault: str, models: dict[type[nn.Module], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, plant = FAULTS[fault]
    model = models[kind]
    file = onnx.load(model.onnx)
    wrong = plant(file.graph)

    def with_fault(module: Any, example: Any, signature: Any, out: Path) -> str:
        onnx.save(file, out)
        return "an exporter with one wrong operator"

    monkeypatch.setitem(EXPORTERS, Form.ONNX, with_fault)
    with pytest.raises(RejectedError, match=r"^export is wrong at batch [13]: max difference") as caught:
        export(model.objects, model.source, Form.ONNX, model.data)

    named = str(caught.value).partition("; first operator that differs: ")[2]
    assert named.startswith(f"{wrong.name} ({wrong.op_type}): ")


def test_of_an_operator_that_is_several_in_onnx_all_are_named(models: dict[type[nn.Module], Model]) -> None:
    model = models[Attention]
    told = model.named_in(other_weight("MatMul", 0, 1))
    assert re.search(r"differs: node_MatMul_\d+ \(MatMul\) or node_linear \(Add\), which compute linear \(aten\.", told)


def test_a_wrong_recurrent_weight_is_found_among_what_prepares_it(models: dict[type[nn.Module], Model]) -> None:
    told = models[Recurrent].named_in(other_weight("LSTM", 0, 1))
    assert re.search(r"differs: node_\w+ \(LSTM\) or ", told)
    assert "lstm (aten.lstm.input): max difference" in told


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_named_where_nothing_is_wrong(kind: type[nn.Module], models: dict[type[nn.Module], Model]) -> None:
    assert models[kind].named_in(lambda graph: graph.node[0]) == "no single operator stands out"
    assert models[kind].exported.parity is not None
    assert models[kind].exported.parity.max_abs_diff < 1e-5


class MiscompilingEngine(OpenVinoEngine):
    """OpenVINO behind a converter that takes the first Softmax over another axis, and every Relu for a LeakyRelu."""

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        file = onnx.load(source)
        for found in file.graph.node:
            if found.name == "node_softmax":
                other_attribute("Softmax", 0, "axis", -2)(file.graph)
            if found.op_type == "Relu":
                found.op_type = "LeakyRelu"
        converted = out.with_name("converted.onnx")
        onnx.save(file, converted)
        return super().build(converted, out, options)


@pytest.mark.parametrize(
    ("kind", "wrong"), [(Convolutional, r"node_relu \(Relu\)"), (Attention, r"node_softmax \(Softmax\)")]
)
def test_the_operator_that_an_engine_miscompiles_is_named(
    kind: type[nn.Module], wrong: str, models: dict[type[nn.Module], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "miscompiling", f"{__name__}:MiscompilingEngine")
    with pytest.raises(
        RejectedError, match=rf"^fp32/miscompiling differs .*; first operator that differs: {wrong}: max"
    ):
        models[kind].built("miscompiling")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_sound_engines_pass(kind: type[nn.Module], name: str, models: dict[type[nn.Module], Model]) -> None:
    parity = models[kind].built(name).parity
    assert parity is not None
    assert parity.max_rel_diff < 1e-2
    assert parity.cosine > 1 - 1e-9
