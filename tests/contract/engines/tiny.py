"""Tiny models in every form and variant, made with the frameworks' own exporters and quantizers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from slipway.engines.base import Arrays
from slipway.records import Form, Signature, TensorSpec


class Files(dict[tuple[Form, str], Path]):
    """Files by form and variant; int8 programs are made when first asked for: their quantizer takes long to import."""

    def __missing__(self, key: tuple[Form, str]) -> Path:
        if key != (Form.PROGRAM, "int8-static"):
            raise KeyError(key)
        self[key] = self[Form.PROGRAM, "fp32"].with_name("int8-static.pt2")
        _int8_program(self[Form.PROGRAM, "fp32"], self[key])
        return self[key]


@dataclass(frozen=True)
class TinyModel:
    """An eager model, its signature, and its exported files by form and variant."""

    name: str
    module: nn.Module
    signature: Signature
    files: dict[tuple[Form, str], Path]
    compute_layers: int

    def arrays(self, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Normal random inputs, batch first."""
        rng = np.random.default_rng(seed)
        return {s.name: rng.standard_normal((batch, *s.shape[1:])).astype(s.dtype) for s in self.signature.inputs}

    def reference(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """What the eager model answers."""
        with torch.no_grad():
            outputs = self.module(*(torch.tensor(arrays[spec.name]) for spec in self.signature.inputs))
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        return {spec.name: t.numpy() for spec, t in zip(self.signature.outputs, tensors, strict=True)}


class Residual(nn.Module):
    """Two convolutions with batch-norm, the second with a shortcut, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, 16, 16] to logits [N, 10]."""
        features = self.stem(input)
        return self.head(torch.relu(self.block(features) + features).mean((2, 3)))


class TwoTowers(nn.Module):
    """Two inputs, two outputs of different rank."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [N, 8] and [N, 4] to scores [N, 3] and a total [N]."""
        joined = torch.relu(self.left(a) - self.right(b))
        return self.head(joined), joined.sum(1)


class Encoder(nn.Module):
    """One transformer block: self-attention of two heads and a two-layer net, each after a layer norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.projection, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Embedded tokens [N, 6, 16] to logits [N, 4]."""
        heads = self.projection(self.first(input)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*heads.unbind(0))
        tokens = input + self.out(attended.transpose(1, 2).flatten(2))
        return self.head((tokens + self.net(self.second(tokens))).mean(1))


class InBfloat16(nn.Module):
    """A model computing in bfloat16, with fp32 inputs and outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).bfloat16()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """As the model itself."""
        outputs = self.module(*(tensor.bfloat16() for tensor in inputs))
        return tuple(o.float() for o in outputs) if isinstance(outputs, tuple) else outputs.float()


def residual(folder: Path) -> TinyModel:
    """The residual CNN, its batch-norm statistics warmed up."""
    torch.manual_seed(0)
    module = Residual()
    with torch.no_grad():
        for _ in range(8):
            module(torch.randn(16, 3, 16, 16))
    signature = Signature(inputs=(_spec("image", 3, 16, 16),), outputs=(_spec("logits", 10),))
    return _export("residual", module.eval(), signature, folder)


def two_towers(folder: Path) -> TinyModel:
    """The model with two inputs and two outputs."""
    torch.manual_seed(0)
    signature = Signature(inputs=(_spec("left", 8), _spec("right", 4)), outputs=(_spec("scores", 3), _spec("total")))
    return _export("two-towers", TwoTowers().eval(), signature, folder)


def transformer(folder: Path) -> TinyModel:
    """The encoder block, in fp32 alone."""
    torch.manual_seed(0)
    signature = Signature(inputs=(_spec("tokens", 6, 16),), outputs=(_spec("logits", 4),))
    return _export("transformer", Encoder().eval(), signature, folder)


def _spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=(-1, *shape))


def _export(name: str, module: nn.Module, signature: Signature, folder: Path) -> TinyModel:
    folder = folder / name
    folder.mkdir()
    files = Files(
        ((form, variant), folder / f"{variant}{suffix}")
        for form, suffix, variants in (
            (Form.PROGRAM, ".pt2", ("fp32", "bf16")),
            (Form.TORCHSCRIPT, ".ts", ("fp32", "bf16", "int8-dynamic")),
            (Form.ONNX, ".onnx", ("fp32", "int8-dynamic", "int8-static")),
        )
        for variant in variants
    )
    files[Form.ONNX, "bf16"] = files[Form.ONNX, "fp32"]  # an engine that builds from ONNX lowers the precision itself
    model = TinyModel(name, module, signature, files, compute_layers=3)
    example = tuple(torch.from_numpy(array) for array in model.arrays(2).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch deprecates its exporters and quantizers; engines are tried here
        program = _program(module, example, files[Form.PROGRAM, "fp32"])
        _program(InBfloat16(module), example, files[Form.PROGRAM, "bf16"])
        dynamic = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)
        for variant, variation in (("fp32", module), ("bf16", InBfloat16(module)), ("int8-dynamic", dynamic)):
            torch.jit.trace(variation.eval(), example).save(files[Form.TORCHSCRIPT, variant])
        _onnx(program, model)
    return model


def _program(module: nn.Module, example: tuple[torch.Tensor, ...], out: Path) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes: tuple[object, ...] = tuple(batch for _ in example)
    program = torch.export.export(
        module, example, dynamic_shapes=(shapes,) if isinstance(module, InBfloat16) else shapes
    )
    torch.export.save(program, out)
    return program


def _int8_program(fp32: Path, out: Path) -> None:
    """By executorch's own quantizer for XNNPACK, from the program itself, calibrated on normal random inputs."""
    program = torch.export.load(fp32)
    shapes = [tuple(node.meta["val"].shape[1:]) for node in program.graph.nodes if node.name in _inputs(program)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao and executorch call what is deprecated of each other
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
        quantizer = xnnpack_quantizer.XNNPACKQuantizer().set_global(config)
        prepared = prepare_pt2e(program.module(), quantizer)
        rng = np.random.default_rng(0)
        for _ in range(4):
            prepared(*(torch.from_numpy(rng.standard_normal((32, *shape)).astype("float32")) for shape in shapes))
        _program(convert_pt2e(prepared), tuple(torch.zeros(2, *shape) for shape in shapes), out)


def _inputs(program: torch.export.ExportedProgram) -> tuple[object, ...]:
    return program.graph_signature.user_inputs


def _onnx(program: torch.export.ExportedProgram, model: TinyModel) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Calibration(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[Arrays] = iter([model.arrays(32, seed) for seed in range(4)])

        def get_next(self) -> Arrays | None:
            return next(self._batches, None)

    fp32 = model.files[Form.ONNX, "fp32"]
    torch.onnx.export(
        program,
        dynamo=True,
        input_names=[spec.name for spec in model.signature.inputs],
        output_names=[spec.name for spec in model.signature.outputs],
        verbose=False,
    ).save(fp32)
    graph = onnx.load(fp32)
    del graph.graph.value_info[:]  # the exporter's shapes contradict the quantizer's inference
    static = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(copy.deepcopy(graph), model.files[Form.ONNX, "int8-static"], Calibration(), **static)
    quantize_dynamic(
        graph,
        model.files[Form.ONNX, "int8-dynamic"],
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )
