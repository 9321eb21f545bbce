"""ResNet-18 and ResNet-50 at 224 x 224, batch 1, on all cores, by every engine side by side, against eager PyTorch.

Run it on an idle machine: ``.venv/bin/python benchmarks/engines.py``. It takes five to ten minutes and writes its
tables into docs/guides/engines.md. All engines of a net are timed in one interleaved session; so is a large int8 matrix
product, whose rate is what the machine can do, and of which each int8 engine reaches a fraction.

The convolutions are random, their batch-norm statistics taken from data, and the head is fitted to handwritten digits
(scikit-learn's), so that held-out images have answers. The table tells on how many of them an engine's top-1 is
eager's: that is agreement, and no accuracy of a trained net, whose answers have wider margins.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from examples import ROOT, line, machine, write
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slipway.config import CalibrationParams
from slipway.engines import engine
from slipway.engines.base import Arrays, BuildOptions, RunOptions
from slipway.engines.torch_archive import load_program
from slipway.errors import SlipwayError, UnsupportedError
from slipway.examples.digits import load_splits
from slipway.exports.onnx import export_onnx
from slipway.exports.program import export_program
from slipway.exports.torchscript import export_torchscript
from slipway.measure.arrays import Infer
from slipway.measure.hardware import describe
from slipway.measure.sessions import Participant, ParticipantTiming, SessionTimings, TimingPlan, run_session
from slipway.measure.worker import claim_stdout, serve
from slipway.records import Form, Interval, Profile, Signature, TensorSpec
from slipway.steps.benchmark import host_to_itself
from slipway.stores.datasets import write_shards
from slipway.variants.int8_program import quantize_program_static
from slipway.variants.int8_static import quantize_onnx_static
from slipway.variants.reduced_float import to_reduced

GUIDE = ROOT / "docs" / "guides" / "engines.md"
CANDIDATES = (
    ("torchscript", "fp32"),
    ("inductor", "fp32"),
    ("inductor", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8-static"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8-static"),
    ("executorch", "fp32"),
    ("executorch", "int8-static"),
    ("tvm", "fp32"),
)
BLOCKS = {"ResNet-18": (2, 2, 2, 2), "ResNet-50": (3, 4, 6, 3)}
CLASSES = 1000
N_STATISTICS, N_FITTED, N_CALIBRATION, N_HELD_OUT = 32, 240, 40, 200
BATCH = 8
PEAK_SIZE = 1024  # rows and columns: 1 MB each, which stay in the caches
HEADINGS = ("engine", "variant", "p50 ms", "speed-up", "interval", "of the int8 peak", "top-1 as eager's")
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 3, 224, 224)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, CLASSES)),),
)


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or the bottleneck 1x1, 3x3, 1x1 with four times the width at its end."""

    def __init__(self, channels_in: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        kernels = ((width, 1, 1), (width, 3, stride), (out, 1, 1)) if bottleneck else ((width, 3, stride), (out, 3, 1))
        layers: list[nn.Module] = []
        channels = channels_in
        for channels_out, kernel, step in kernels:
            layers += [_convolution(channels, channels_out, kernel, step), nn.ReLU()]
            channels = channels_out
        self.body = nn.Sequential(*layers[:-1])
        same = stride == 1 and channels_in == out
        self.shortcut = nn.Identity() if same else _convolution(channels_in, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """The residual network of He et al. (2016) for ImageNet, its stride in the 3x3 convolution of a bottleneck."""

    def __init__(self, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels, bottleneck = 64, name == "ResNet-50"
        for stage, count in enumerate(BLOCKS[name]):
            width = 64 * 2**stage
            for index in range(count):
                layers.append(Block(channels, width, 2 if stage and not index else 1, bottleneck))
                channels = 4 * width if bottleneck else width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 224, 224) to logits (N, 1000)."""
        return self.head(self.features(image))  # type: ignore[no-any-return]  # torch types a module's call as Any


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out, momentum=None))


@dataclass(frozen=True)
class Images:
    """Digits enlarged to 224 x 224 in three channels, their labels, and images that no fit has seen."""

    fitted: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray

    @classmethod
    def load(cls) -> Images:
        """The same images every time."""
        splits = load_splits()
        train, test = splits["train"], splits["test"]
        return cls(_enlarged(train.inputs[:N_FITTED]), train.labels[:N_FITTED], _enlarged(test.inputs[:N_HELD_OUT]))


def _enlarged(images: np.ndarray) -> np.ndarray:
    large = nn.functional.interpolate(torch.from_numpy(images), size=224, mode="bilinear", align_corners=False)
    return ((large - 0.3) / 0.35).expand(-1, 3, -1, -1).contiguous().numpy()


def fitted(name: str, images: Images) -> ResNet:
    """The net with random convolutions, batch-norm statistics of some images, and a head fitted by ridge regression.

    The head knows ten classes; the others are never the answer, and are there for their cost.
    """
    torch.manual_seed(0)
    net = ResNet(name)
    with torch.inference_mode():
        net.train()
        for batch in _batches(images.fitted[:N_STATISTICS]):
            net.features(torch.from_numpy(batch))
        net.eval()
        features = torch.cat([net.features(torch.from_numpy(batch)) for batch in _batches(images.fitted)])
    centre = features.mean(0)
    centred = (features - centre).double()
    wanted = nn.functional.one_hot(torch.from_numpy(images.labels), 10).double()
    gram = centred @ centred.T
    ridge = gram + gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    weights = (centred.T @ torch.linalg.solve(ridge, wanted)).float()
    with torch.no_grad():
        net.head.weight[:10] = weights.T
        net.head.bias[:10] = -(centre @ weights)
        net.head.bias[10:] = -10.0
    return net


class Files:
    """The exported forms of one net, each made when it is first asked for."""

    def __init__(self, net: ResNet, images: Images, folder: Path) -> None:
        self._net = net
        self._calibration = images.fitted[:N_CALIBRATION]
        self._folder = folder
        self._example = {"image": images.fitted[:2]}

    def built(self, name: str, variant: str) -> Path:
        """The engine file of a variant.

        Raises:
            SlipwayError: the engine cannot have it, with the reason.
        """
        runtime = engine(name)
        if reason := runtime.refused.get(variant):
            raise UnsupportedError(reason)
        out = self._folder / f"{name}-{variant}{runtime.suffix}"
        options = BuildOptions(variant=variant, signature=SIGNATURE, batch=(1,))
        runtime.build(self._source(runtime.form, variant), out, options)
        return out

    def _source(self, form: Form, variant: str) -> Path:
        if form is Form.ONNX and variant == "bf16":
            variant = "fp32"  # the engine lowers the precision itself
        path = self._folder / f"{variant}.{form}"
        if not path.exists():
            self._make(form, variant, path)
        return path

    def _make(self, form: Form, variant: str, path: Path) -> None:
        if form is Form.TORCHSCRIPT:
            export_torchscript(self._net, self._example, SIGNATURE, path)
        elif form is Form.ONNX and variant == "int8-static":
            fp32 = self._source(form, "fp32")
            quantize_onnx_static(fp32, path, self._stream, CalibrationParams())
        elif form is Form.ONNX:
            export_onnx(self._net, self._example, SIGNATURE, path)
        else:
            export_program(self._varied(variant), self._example, SIGNATURE, path)

    def _varied(self, variant: str) -> nn.Module:
        if variant == "fp32":
            return self._net
        program = load_program("torch", self._source(Form.PROGRAM, "fp32")).module()
        if variant == "bf16":
            return to_reduced(program, self._example, SIGNATURE, "bf16")
        return quantize_program_static(program, SIGNATURE, self._stream, CalibrationParams())[0]

    def _stream(self) -> Iterator[Arrays]:
        return ({"image": batch} for batch in _batches(self._calibration))


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def participant(name: str, path: Path, data: Path) -> Participant:
    """An engine file in a process of its own."""
    command = (sys.executable, "-m", "slipway.steps.timed_engine", name, str(path), str(data))
    return Participant(f"{name} {path.stem}", command)


def answers(name: str, path: Path, images: Images) -> np.ndarray:
    """An engine file's top-1 of every held-out image."""
    with engine(name).load(path, RunOptions(threads=_cores())) as session:
        found = [session.infer({"image": batch})["logits"].argmax(1) for batch in _batches(images.held_out)]
    return np.concatenate(found)


def multiply_peak() -> int:
    """Serve timing requests with an int8 matrix product of PyTorch's (oneDNN), as `Participant` wants it."""
    stdout = claim_stdout()
    left, right = (torch.randint(-128, 128, (PEAK_SIZE, PEAK_SIZE), dtype=torch.int8) for _ in range(2))

    @contextmanager
    def load(threads: int, _: int) -> Iterator[Infer]:
        torch.set_num_threads(threads)
        yield lambda _: {"first": torch._int_mm(left, right)[:1, :1].numpy()}

    def profile(*_: object) -> Profile:
        raise UnsupportedError("it is no engine")

    return serve(load, lambda batch: {"image": np.zeros(batch)}, profile, sys.stdin, stdout)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def race(name: str, asked: tuple[str, ...], images: Images, budget_s: float) -> list[str]:
    """The table of one net, and the engines that it lacks, each with the reason."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_shards(folder / "data", {"image": images.held_out[:1]}, np.zeros(1, np.int64), shard_size=1)
        net = fitted(name, images)
        files = Files(net, images, folder)
        built: dict[tuple[str, str], Path] = {}
        missing: list[str] = []
        for candidate in [one for one in CANDIDATES if one[0] in asked]:
            print(f"{name}: building {' '.join(candidate)}", file=sys.stderr, flush=True)
            try:
                built[candidate] = files.built(*candidate)
            except SlipwayError as error:
                missing.append(f"{' '.join(candidate)}: {error}")
        eager = files.built("torch", "fp32")
        top1 = answers("torch", eager, images)
        agreeing = {one: float(np.mean(answers(one[0], path, images) == top1)) for one, path in built.items()}
        print(f"{name}: timing", file=sys.stderr, flush=True)
        session = run_session(
            participant("torch", eager, folder / "data"),
            [
                *(participant(one[0], path, folder / "data") for one, path in built.items()),
                Participant("int8 peak", (sys.executable, str(Path(__file__).resolve()), "--peak")),
            ],
            TimingPlan(threads=(_cores(),), samples=192, budget_seconds=budget_s),
            os.sched_getaffinity(0),
        )
    return table(name, _giga_operations(net), session, list(built), agreeing, missing)


def table(
    name: str,
    giga_operations: float,
    session: SessionTimings,
    built: list[tuple[str, str]],
    agreeing: dict[tuple[str, str], float],
    missing: list[str],
) -> list[str]:
    """The rows of one net in Markdown, fastest last, with what the machine's int8 peak is."""
    *timings, peak = session.candidates
    if not isinstance(peak, ParticipantTiming):
        raise peak
    peak_per_s = 2 * PEAK_SIZE**3 / 1e6 / peak.timing.latency.p50_ms
    share = giga_operations * 1e9 / (2 * PEAK_SIZE**3)
    measured = {}
    for candidate, timing in zip(built, timings, strict=True):
        if isinstance(timing, ParticipantTiming):
            measured[candidate] = timing
        else:
            missing.append(f"{' '.join(candidate)}: {timing}")
    latency = session.reference.timing.latency
    rows = [("torch (eager)", "fp32", f"{latency.p50_ms:.2f}", "1", "", "", "")]
    for candidate, timing in sorted(measured.items(), key=lambda item: item[1].timing.speedup.value):
        of_peak = _scaled(timing.speedup_over(peak), share)
        speedup = timing.timing.speedup
        rows.append(
            (
                *candidate,
                f"{timing.timing.latency.p50_ms:.2f}",
                f"{speedup.value:.2f}x",
                f"{speedup.lower:.2f} to {speedup.upper:.2f}",
                f"{of_peak.value:.0%}" if candidate[1].startswith("int8") else "",
                f"{agreeing[candidate]:.1%}",
            )
        )
    ceiling = peak.timing.speedup.value / share
    unbuilt = [f"Not in the table: {'; '.join(missing)}.", ""] if missing else []
    return [
        f"### {name}, {giga_operations:.1f} G multiplications and additions",
        "",
        line(HEADINGS),
        line("---" for _ in HEADINGS),
        *map(line, rows),
        "",
        f"The int8 peak is {peak_per_s:.0f} GOP/s, of a {PEAK_SIZE} x {PEAK_SIZE} matrix product in the same session; "
        f"a net that did nothing but multiply at that rate would be {ceiling:.1f}x as fast as eager PyTorch.",
        "",
        *unbuilt,
    ]


def _scaled(interval: Interval, by: float) -> Interval:
    return Interval(value=interval.value * by, lower=interval.lower * by, upper=interval.upper * by)


def _giga_operations(net: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.zeros(1, 3, 224, 224))
    return float(counter.get_total_flops()) / 1e9


def main() -> int:
    """Time the nets and replace what stands between the markers in the guide; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engines = list(dict.fromkeys(name for name, _ in CANDIDATES))
    parser.add_argument("--engines", nargs="+", default=engines, choices=engines)
    parser.add_argument("--nets", nargs="+", default=list(BLOCKS), choices=list(BLOCKS))
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of interleaved rounds per net")
    parser.add_argument("--dry-run", action="store_true", help="print the tables and write nothing")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        return multiply_peak()
    torch.set_num_threads(_cores())
    images, lines = Images.load(), []
    with host_to_itself():
        for name in asked.nets:
            lines += race(name, tuple(asked.engines), images, asked.budget)
    host = describe({}).model_dump()
    lines += [f"Measured on {machine(host)}, batch 1, {_cores()} threads, {N_HELD_OUT} held-out images.", ""]
    print("\n".join(lines))
    if not asked.dry_run:
        write(GUIDE, "engines", "benchmarks/engines.py", "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
