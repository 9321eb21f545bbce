"""Quantization-aware fine-tuning: it wins back what int8 lost, goes on after a kill, trains what the file computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.config import CalibrationParams, QatParams
from slipway.errors import BadInputError, RejectedError, UnsupportedError
from slipway.exports.calling import leaves_in_order, run
from slipway.exports.onnx import translated
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.records import DataSource, Exported, Form, ModelSource, Signature, TensorSpec
from slipway.steps.export import export
from slipway.steps.quantize import quantize
from slipway.stores.datasets import write_shards
from slipway.stores.objects import ObjectStore
from slipway.variants import int8_qat
from slipway.variants.calibration import calibrate
from slipway.variants.fake_quantize import insert
from slipway.variants.inner_values import Arrays, Probe
from slipway.variants.int8_qat import Trainee, Tuned, fine_tune, shuffled
from slipway.variants.qdq import activations, layers, prepared, quantized, selected
from tests.unit.exports.test_exports import load_onnx
from tests.unit.variants.conftest import OnnxOf
from tests.unit.variants.models import (
    SIGNATURES,
    BiLstm,
    Depthwise,
    Residual,
    Series,
    Transformer,
    TwoByTwo,
    Upsampling,
    batch_of,
    made,
    relative_error,
)

HARSH = CalibrationParams(ranges="percentile", percentile=60.0)  # clips a fifth of the values at either end
# How far what is trained may lie from the file, of fp32's distance. A SiLU's sigmoid is rounded in the file alone.
SHARES: dict[type[nn.Module], float] = {Depthwise: 0.8}
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 1, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, 10)),),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same bits on any machine's number of cores, and no waiting for those that other tests use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Block(nn.Module):
    """A convolution with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits, 700 to train, 256 to calibrate, 841 to test, and a net trained on them."""

    objects: ObjectStore
    source: ModelSource
    exported: Exported
    data: dict[str, DataSource]
    test: dict[str, np.ndarray]
    labels: np.ndarray

    def accuracy(self, path: Path) -> float:
        """On the test examples, by onnxruntime."""
        return float((load_onnx(path, SIGNATURE)(self.test)[0].argmax(1) == self.labels).mean())

    def made(self, variant: str, qat: QatParams | None = None) -> tuple[Path, tuple[str, ...]]:
        """The variant, its ranges taken harshly."""
        given = (self.data["test"], self.data["calibration"], HARSH, self.data["training"], qat)
        file = quantize(self.objects, self.source, self.exported, variant, *given)
        return self.objects.path(file.artifact), file.notes


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    images, labels = (pixels[order].reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels[order].astype(np.int64)
    parts = {"training": slice(0, 700), "calibration": slice(700, 956), "test": slice(956, None)}
    data = {}
    for name, part in parts.items():
        write_shards(folder / name, {"image": images[part]}, labels[part], 256)
        data[name] = DataSource(path=str(folder / name), md5=name, files=1, size_bytes=1)
    objects = ObjectStore(folder / "objects")
    module = trained(images[:700], labels[:700])
    export_program(module, {"image": images[:2]}, SIGNATURE, folder / "program.pt2")
    source = source_of(objects, folder / "program.pt2", SIGNATURE)
    exported = export(objects, source, Form.ONNX, data["test"])
    return Digits(objects, source, exported, data, {"image": images[956:]}, labels[956:])


def trained(images: np.ndarray, labels: np.ndarray) -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    module = nn.Sequential(*stem, Block(), nn.MaxPool2d(2), Block(), nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(15):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            scores = module(torch.from_numpy(images[chosen]))
            nn.functional.cross_entropy(scores, torch.from_numpy(labels[chosen])).backward()
            optimizer.step()
    return module.eval()


def source_of(objects: ObjectStore, program: Path, signature: Signature) -> ModelSource:
    artifact = objects.put(program)
    named = {"uri": "models:/digits/1", "name": "digits", "version": "1", "format": "pt2"}
    return ModelSource(**named, digest=artifact.digest, program=artifact, signature=signature)


def test_it_wins_back_at_least_half_of_what_a_harsh_static_quantization_lost(digits: Digits) -> None:
    fp32 = digits.accuracy(digits.objects.path(digits.exported.artifact))
    static = digits.accuracy(digits.made("int8-static")[0])
    path, notes = digits.made("int8-qat")
    tuned = digits.accuracy(path)

    assert fp32 - static >= 0.05, "not harsh enough to show anything"
    assert fp32 - tuned <= (fp32 - static) / 2
    assert notes[:4] == (
        "3 of 3 Conv in int8",
        "1 of 1 Gemm in int8",
        "fine-tuned with 4 of 4 layers and 8 of 8 activations in int8",
        "on 700 examples, batches of 32, learning rate 0.0001",
    )
    assert [note[:8] for note in notes[4:]] == ["epoch 0:", "epoch 1:", "epoch 2:", "epoch 3:", "kept epo"]
    assert not list((digits.objects.root / "training").iterdir()), "a checkpoint that has served its time stays behind"


def test_where_nothing_is_learnt_it_stops_early_and_is_static_quantization(digits: Digits) -> None:
    path, notes = digits.made("int8-qat", QatParams(epochs=5, learning_rate=1e-12))
    assert [note for note in notes if note.startswith(("epoch 3", "kept"))] == [
        "kept epoch 0: no better than int8-static"
    ]
    found, static = (load_onnx(one, SIGNATURE)(digits.test)[0] for one in (path, digits.made("int8-static")[0]))
    assert relative_error(found, static) < 1e-2


def test_a_rate_that_diverges_is_told(digits: Digits) -> None:
    with pytest.raises(RejectedError, match=r"^int8-qat: training diverged; set a smaller qat\.learning_rate$"):
        digits.made("int8-qat", QatParams(learning_rate=1e30))


def test_without_training_data_it_is_bad_input(digits: Digits) -> None:
    given = (digits.data["test"], digits.data["calibration"])
    with pytest.raises(BadInputError, match=r"^int8-qat needs training data: set data\.training"):
        quantize(digits.objects, digits.source, digits.exported, "int8-qat", *given)


def test_torchscript_is_refused(digits: Digits, tmp_path: Path) -> None:
    export_torchscript(made(Residual), batch_of(Residual, 2), SIGNATURES[Residual], tmp_path / "m.ts")
    scripted = source_of(digits.objects, tmp_path / "m.ts", SIGNATURES[Residual])
    given = (digits.data["test"], digits.data["calibration"], HARSH, digits.data["training"])
    with pytest.raises(UnsupportedError, match=r"^int8-qat: a model registered as TorchScript .* log it in .* pt2"):
        quantize(digits.objects, scripted, digits.exported, "int8-qat", *given)


def trainee_of(kind: type[nn.Module], onnx: Path) -> Trainee:
    signature = SIGNATURES[kind]
    graph = translated(made(kind), batch_of(kind, 2), signature)
    placeholders = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    answers = [node.name for node in leaves_in_order(graph.graph.output_node().args[0], graph, signature)]
    inputs = [spec.name for spec in signature.inputs]
    names = [*inputs, *(spec.name for spec in signature.outputs)]
    return Trainee(graph, onnx, tuple(inputs), dict(zip(names, [*placeholders, *answers], strict=True)))


def tuned(
    kind: type[nn.Module],
    onnx: Path,
    checkpoint: Path,
    progress: Callable[[float], None] = lambda _: None,
    labels: np.ndarray | None = None,
    training: int = 40,
) -> Tuned:
    given = [batch_of(kind, training)] if training else []
    judged = [(batch_of(kind, 32, seed=1), labels)]
    params = QatParams(epochs=2, batch=16)
    return fine_tune(
        trainee_of(kind, onnx), lambda: given, lambda: judged, CalibrationParams(), params, checkpoint, progress
    )


def test_killed_and_started_again_it_comes_to_the_same_weights(onnx_of: OnnxOf, tmp_path: Path) -> None:
    whole: list[float] = []
    expected = tuned(Residual, onnx_of(Residual), tmp_path / "whole.pt", whole.append)

    def killed_in_the_second_epoch(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(Residual, onnx_of(Residual), tmp_path / "killed.pt", killed_in_the_second_epoch)
    rest: list[float] = []
    found = tuned(Residual, onnx_of(Residual), tmp_path / "killed.pt", rest.append)

    assert found.notes == expected.notes
    assert found.ranges == expected.ranges
    assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())
    assert rest == [share for share in whole if share >= 0.5], "the first epoch was trained again"
    assert whole == sorted(whole)
    assert 0 <= whole[0] < whole[-1] <= 1


def test_a_damaged_checkpoint_is_told(onnx_of: OnnxOf, tmp_path: Path) -> None:
    (tmp_path / "damaged.pt").write_bytes(b"no checkpoint")
    with pytest.raises(BadInputError, match=r"^checkpoint .*damaged\.pt cannot be read: .*; delete it$"):
        tuned(Residual, onnx_of(Residual), tmp_path / "damaged.pt")


def test_no_training_examples_are_bad_input(onnx_of: OnnxOf, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="training data is empty"):
        tuned(Residual, onnx_of(Residual), tmp_path / "c.pt", training=0)


def test_what_is_right_is_the_label_or_else_the_answer_of_fp32(onnx_of: OnnxOf, tmp_path: Path) -> None:
    answers = run(made(Residual), batch_of(Residual, 32, seed=1), SIGNATURES[Residual])[0].argmax(1).numpy()
    for labels, right in ((None, "100.00%"), (answers, "100.00%"), ((answers + 1) % 10, "0.00%")):
        notes = tuned(Residual, onnx_of(Residual), tmp_path / f"{right}.pt", labels=labels).notes
        assert notes[2].startswith(f"epoch 0: {right} right, error ")
        (tmp_path / f"{right}.pt").unlink()
    notes = tuned(Upsampling, onnx_of(Upsampling), tmp_path / "image.pt").notes
    assert notes[2].startswith("epoch 0: error "), "an image has no class"


@pytest.mark.parametrize("kind", [Residual, Depthwise, Transformer, BiLstm, Series, TwoByTwo, Upsampling])
def test_what_is_trained_computes_what_the_int8_file_does(kind: type[nn.Module], onnx_of: OnnxOf) -> None:
    model = prepared(onnx_of(kind))
    in_int8 = [node.name for node in layers(model)]
    names = activations(model, selected(model, in_int8))
    ranges = calibrate(model, names, lambda: [batch_of(kind, 64)], CalibrationParams()).ranges
    file = quantized(model, in_int8, ranges)
    trainee = trainee_of(kind, onnx_of(kind))
    inserted = insert(trainee.graph, file, trainee.nodes)

    assert inserted.weights == len(in_int8)
    arrays = batch_of(kind, 32, seed=5)
    outputs = [spec.name for spec in SIGNATURES[kind].outputs]
    wanted, fp32 = Probe(file, outputs).run(arrays), Probe(model, outputs).run(arrays)
    for name, found in zip(outputs, run(trainee.graph, arrays, SIGNATURES[kind]), strict=True):
        # A value that lies between two steps may fall to either side.
        share = SHARES.get(kind, 1 / 3)
        assert relative_error(found.numpy(), wanted[name]) < share * relative_error(fp32[name], wanted[name])


def test_examples_are_shuffled_anew_in_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers() -> list[Arrays]:
        return [{"x": np.arange(start, start + 10)} for start in range(0, 50, 10)]

    epochs = [[batch["x"] for batch in shuffled(numbers, 8, seed)] for seed in (0, 0, 1)]
    first, again, second = (np.concatenate(epoch).tolist() for epoch in epochs)
    assert first == again != second
    assert sorted(first) == sorted(second) == list(range(50)) != first
    assert [len(batch) for batch in epochs[0]] == [8] * 6 + [2]
    monkeypatch.setattr(int8_qat, "SHUFFLED_BYTES", 20 * 8)
    blocks = np.concatenate([batch["x"] for batch in shuffled(numbers, 8, 0)])
    assert sorted(blocks[:20]) == list(range(20)), "no more is held than was allowed"
