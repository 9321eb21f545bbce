"""Mixed precision gives back to fp32 the layers that need it, and only those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slipway.config import CalibrationParams
from slipway.errors import BadInputError, RejectedError, UnsupportedError
from slipway.exports.onnx import export_onnx
from slipway.exports.program import capture
from slipway.records import Signature
from slipway.variants.inner_values import Arrays, Batches
from slipway.variants.int8_mixed import MAX_DISAGREEMENT, Answers, Restored, by_error_per_cost, quantize_onnx_mixed
from slipway.variants.int8_static import quantize_onnx_static
from slipway.variants.layer_times import Measured
from slipway.variants.qdq import prepared
from tests.unit.exports.test_exports import load_onnx
from tests.unit.variants.conftest import OnnxOf
from tests.unit.variants.models import Residual, relative_error, spec, stream

PARAMS = CalibrationParams()


class Fragile(nn.Module):
    """Four linear layers; the third reads one loud feature, which it ignores, among quiet ones, which it needs."""

    def __init__(self, loudness: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, 10)
        volume = torch.ones(32)
        volume[0] = loudness
        self.register_buffer("volume", volume)
        with torch.no_grad():
            self.layers[2].weight[:, 0] = 0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.layers[1](torch.tanh(self.layers[0](features))))
        return self.head(torch.tanh(self.layers[2](x * self.volume)))


SIGNATURE = Signature(inputs=(spec("features", 32),), outputs=(spec("logits", 10),))


def features(size: int, seed: int) -> Arrays:
    return {"features": np.random.default_rng(seed).uniform(-2, 2, (size, 32)).astype(np.float32)}


def calibration() -> list[Arrays]:
    return [features(50, seed) for seed in range(6)]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("fragile") / "m.onnx"
    program = capture(Fragile(loudness=2000.0).eval(), features(2, 0), SIGNATURE).module()
    export_onnx(program, features(2, 0), SIGNATURE, path)
    return path


def in_int8(path: Path) -> set[str]:
    """Weights of the layers that read int8."""
    nodes = onnx.load(path).graph.node
    dequantized = {name: node.input[0] for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    return {dequantized[node.input[1]] for node in nodes if node.op_type == "Gemm" and node.input[1] in dequantized}


def test_the_one_layer_that_eight_bits_cannot_serve_goes_back_to_fp32(fragile: Path, tmp_path: Path) -> None:
    """Planted: int8 of all layers answers wrongly, so that a bound on the answers can find the culprit."""
    quantize_onnx_static(fragile, tmp_path / "static.onnx", calibration, PARAMS)
    made = quantize_onnx_mixed(fragile, tmp_path / "mixed.onnx", calibration, PARAMS)
    assert in_int8(tmp_path / "static.onnx") - in_int8(tmp_path / "mixed.onnx") == {"layers.2.weight_quantized"}
    assert len(in_int8(tmp_path / "mixed.onnx")) == 3
    arrays = features(64, seed=9)
    expected = load_onnx(fragile, SIGNATURE)(arrays)[0]
    static, mixed = (load_onnx(tmp_path / f"{name}.onnx", SIGNATURE)(arrays)[0] for name in ("static", "mixed"))
    assert relative_error(static, expected) > 0.2
    assert relative_error(mixed, expected) < 0.05
    assert made.notes[:2] == ("3 of 4 Gemm in int8", made.notes[1])
    assert made.notes[1].startswith("1 of 4 layers back in fp32: ")
    assert made.notes[1].endswith("; judged on 30 held-back examples")
    assert made.notes[2:4] == (
        "layers ranked by error per multiply-accumulate, not per microsecond: no engine was timed",
        "30 held-back examples cannot show 1%: the error of the outputs (at most 5%) decides too",
    )


def timer(path: Path) -> Measured:
    """Every layer takes 10 us in fp32; in int8 the first takes as much, the others a tenth."""
    names = [node.name for node in onnx.load(path).graph.node if node.op_type == "Gemm"]
    quick = [10.0] + [1.0] * (len(names) - 1)
    return Measured("a stopwatch", dict(zip(names, quick if path.stem == "int8" else [10.0] * 4, strict=True)))


def test_layers_are_ranked_by_the_microseconds_that_an_engine_tells(fragile: Path, tmp_path: Path) -> None:
    made = quantize_onnx_mixed(fragile, tmp_path / "m.onnx", calibration, PARAMS, timer)
    assert (
        "layers ranked by error per microsecond of a stopwatch; a call takes 40 us in fp32, 13 us in int8" in made.notes
    )
    assert [point.latency_us for point in made.path] == [13, 13 + 9]
    assert str(made.path[1]).endswith(" of multiply-accumulates in fp32, about 22 us a call")


def test_a_layer_that_int8_does_not_speed_up_goes_back_first(tmp_path: Path) -> None:
    """The same fragile layer twice, one after the other; only one of them is any faster in int8."""

    class Twice(Fragile):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            loud = features * self.volume
            return self.head(torch.tanh(self.layers[2](loud)) + torch.tanh(self.layers[1](loud)))

    torch.manual_seed(0)
    module = Twice(loudness=2000.0).eval()
    with torch.no_grad():
        module.layers[1].weight.copy_(module.layers[2].weight.flip(0))  # another order, or the exporter merges the two
    export_onnx(capture(module, features(2, 0), SIGNATURE).module(), features(2, 0), SIGNATURE, tmp_path / "m.onnx")
    twins = [node.name for node in prepared(tmp_path / "m.onnx").graph.node if node.op_type == "Gemm"][:2]
    for slow in twins:

        def stopwatch(path: Path, slow: str = slow) -> Measured:
            names = [node.name for node in onnx.load(path).graph.node if node.op_type == "Gemm"]
            return Measured("", {name: 10.0 if name == slow or path.stem == "fp32" else 1.0 for name in names})

        made = quantize_onnx_mixed(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration, PARAMS, stopwatch)
        assert made.path[1].layer == slow


def test_where_no_engine_tells_multiply_accumulates_rank_and_the_notes_say_so(fragile: Path, tmp_path: Path) -> None:
    def silent(path: Path) -> Measured:
        raise UnsupportedError("it has no profiler")

    timed = quantize_onnx_mixed(fragile, tmp_path / "m.onnx", calibration, PARAMS, silent)
    half = quantize_onnx_mixed(fragile, tmp_path / "m.onnx", calibration, PARAMS, lambda _: Measured("it", {}))
    assert "layers ranked by error per multiply-accumulate, not per microsecond: it has no profiler" in timed.notes
    assert [point.latency_us for point in timed.path] == [None, None]
    assert any("not per microsecond: the profile of it does not tell layer " in note for note in half.notes)


def test_the_way_back_is_told_point_by_point(fragile: Path, tmp_path: Path) -> None:
    made = quantize_onnx_mixed(fragile, tmp_path / "m.onnx", calibration, PARAMS)
    whole, found = made.path
    assert (whole.layers, whole.layer, whole.fp32_share, whole.answers.are_near) == (0, None, 0, False)
    assert (found.layers, found.answers.are_near) == (1, True)
    assert found.fp32_share == pytest.approx(32 * 32 / (3 * 32 * 32 + 320))
    assert found.answers.error < whole.answers.error
    assert whole.answers.agreement is not None
    assert found.answers.agreement is not None
    assert whole.answers.agreement < 1 - MAX_DISAGREEMENT <= found.answers.agreement
    assert set(map(str, made.path)) < set(made.notes)


def test_of_two_layers_that_err_alike_the_cheaper_goes_back_first() -> None:
    errors = {"dear": 0.2, "cheap": 0.2, "harmless": 0.01, "costly and worst": 0.9}
    costs = {"dear": 400, "cheap": 100, "harmless": 50, "costly and worst": 1000}
    assert by_error_per_cost(errors, costs) == ["cheap", "costly and worst", "dear", "harmless"]


def test_a_point_is_told_in_figures() -> None:
    point = Restored(2, "conv", 0.125, Answers(300, 0.0312, 0, 0.995))
    assert str(point) == (
        "2 layers in fp32 (conv): 99.50% top-1 agreement, error 3.12%, 12.5% of multiply-accumulates in fp32"
    )
    assert str(Answers(300, 0.5, 0.25, 1.0)) == "100.00% top-1 agreement, error 50.00% (25.00% beside the classes)"
    assert str(Restored(0, None, 0, Answers(300, 0.5, 0.5, None))) == (
        "0 layers in fp32: error 50.00%, 0.0% of multiply-accumulates in fp32"
    )


@pytest.mark.parametrize(
    ("examples", "error", "beside", "agreement", "near"),
    [
        (300, 0.5, 0.0, 0.99, True),
        (300, 0.0, 0.0, 0.989, False),
        (300, 0.5, 0.05, 0.99, True),
        (300, 0.5, 0.06, 0.99, False),  # an output that holds no classes counts, too
        (300, 0.05, 0.05, None, True),
        (30, 0.06, 0.06, None, False),
        (299, 0.05, 0.0, 1.0, True),
        (299, 0.06, 0.0, 1.0, False),  # agreement on so few shows less than it promises
        (299, 0.01, 0.0, 0.98, False),
    ],
)
def test_many_classes_are_judged_by_agreement_and_all_else_by_error(
    examples: int, error: float, beside: float, agreement: float | None, near: bool
) -> None:
    assert Answers(examples, error, beside, agreement).are_near is near


class Beside(Fragile):
    """Answers with classes that eight bits tell apart, and with the fragile scores beside them."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return features[:, :10] + 10 * torch.arange(10), super().forward(features)


def test_an_output_beside_the_classes_brings_layers_back(tmp_path: Path) -> None:
    """The classes are exact in int8, on 300 held-back examples; the second output is not."""
    torch.manual_seed(0)
    signature = Signature(inputs=SIGNATURE.inputs, outputs=(spec("classes", 10), spec("scores", 10)))
    program = capture(Beside(loudness=2000.0).eval(), features(2, 0), signature).module()
    export_onnx(program, features(2, 0), signature, tmp_path / "m.onnx")
    made = quantize_onnx_mixed(tmp_path / "m.onnx", tmp_path / "q.onnx", lambda: [features(3000, 0)], PARAMS)
    whole, found = made.path
    assert (whole.answers.examples, whole.answers.agreement, whole.answers.are_near) == (300, 1.0, False)
    assert found.answers.error_beside <= 0.05 < whole.answers.error_beside
    assert not any("cannot show" in note for note in made.notes)


def test_where_int8_is_near_enough_it_is_int8_static(onnx_of: OnnxOf, tmp_path: Path) -> None:
    batches: Batches = stream(Residual, 64, 64)
    static = quantize_onnx_static(onnx_of(Residual), tmp_path / "static.onnx", batches, PARAMS)
    mixed = quantize_onnx_mixed(onnx_of(Residual), tmp_path / "mixed.onnx", batches, PARAMS)
    assert (tmp_path / "static.onnx").read_bytes() == (tmp_path / "mixed.onnx").read_bytes()
    assert [point.layers for point in mixed.path] == [0]
    assert set(static) < set(mixed.notes)


def test_the_examples_that_judge_are_three_hundred_at_most(onnx_of: OnnxOf, tmp_path: Path) -> None:
    mixed = quantize_onnx_mixed(onnx_of(Residual), tmp_path / "m.onnx", stream(Residual, *[640] * 5), PARAMS)
    assert mixed.path[0].answers.examples == 300
    assert not any("cannot show" in note for note in mixed.notes)


def test_if_no_layer_can_stay_the_variant_fails(tmp_path: Path) -> None:
    """Every layer reads the loud feature and needs the quiet ones."""

    class AllFragile(Fragile):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.layers[2](features * self.volume)[:, :10]

    torch.manual_seed(0)
    program = capture(AllFragile(loudness=1e6).eval(), features(2, 0), SIGNATURE).module()
    export_onnx(program, features(2, 0), SIGNATURE, tmp_path / "m.onnx")
    with pytest.raises(RejectedError, match="no layer can stay in int8; the last try had 0 layers in fp32: "):
        quantize_onnx_mixed(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration, PARAMS)
    assert not (tmp_path / "q.onnx").exists()


def test_without_held_back_examples_nothing_can_be_judged(fragile: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"needs 10 calibration examples or more.*found 9"):
        quantize_onnx_mixed(fragile, tmp_path / "q.onnx", lambda: [features(9, 0)], PARAMS)
