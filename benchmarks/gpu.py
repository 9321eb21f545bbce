"""ResNet-50 and an encoder of BERT's size on an NVIDIA GPU, by every engine that runs there, against eager PyTorch.

Run it on an idle machine with such a GPU: ``.venv/bin/python benchmarks/gpu.py``. It takes some half an hour and writes
its tables into docs/guides/engines.md. All rows of a table are timed in one interleaved session, each in a process of
its own, with the way of the arrays to the GPU and back. The nets' weights are random: what is told of answers is how
far they are from those of eager fp32. Where there is no such GPU it says so, and ends with 2.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from engines import SIGNATURE as IMAGES
from engines import ResNet
from examples import ROOT, line, write
from torch import Tensor, nn

from slipway.engines import check_settings, engine
from slipway.engines.base import Arrays, BuildOptions
from slipway.engines.nvidia_gpu import first_gpu
from slipway.engines.torch_archive import load_program, read_signature
from slipway.engines.torch_cuda import CudaLabel, CudaSession, module_on, require_cuda
from slipway.errors import SlipwayError, UnsupportedError
from slipway.exports.onnx import export_onnx
from slipway.exports.program import export_program
from slipway.measure.arrays import Infer
from slipway.measure.hardware import describe
from slipway.measure.sessions import Participant, ParticipantTiming, SessionTimings, TimingPlan, run_session
from slipway.measure.worker import claim_stdout, serve
from slipway.records import Form, Profile, Signature, TensorSpec
from slipway.steps.benchmark import host_to_itself
from slipway.stores.datasets import examples, write_shards
from slipway.variants.reduced_float import to_reduced

GUIDE = ROOT / "docs" / "guides" / "engines.md"
BATCHES = (1, 32)
TOKENS, VOCABULARY, WIDTH, HEADS, LAYERS, CLASSES = 128, 30_522, 768, 12, 12, 2
HEADINGS = ("engine", "computes in", "p50 ms", "speed-up", "interval", "largest difference")
COMPILED = "torch.compile"  # Inductor, in the process that runs it: its packages are for CPUs
NO_GPU_EXIT_CODE = 2
CPUS = 4  # of each process: TensorRT compiles on them, and the driver has threads of its own
TEXTS = Signature(
    inputs=(TensorSpec(name="tokens", dtype="int64", shape=(-1, TOKENS)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, CLASSES)),),
)


@dataclass(frozen=True)
class Row:
    """A line of the table: an engine, the variant that it builds from, and its settings.

    One that is ``brief`` takes part in two rounds alone: it takes long to open, and is opened anew in each.
    """

    told: str
    engine: str
    variant: str = "fp32"
    settings: Mapping[str, object] = field(default_factory=dict)
    brief: bool = False

    @property
    def precision(self) -> str:
        """What it computes in."""
        return "tf32" if self.settings.get("tf32") else self.variant

    @property
    def name(self) -> str:
        """What it is called in a session, and in the table's foot."""
        return f"{self.told} {self.precision}"


GPU = {"device": "cuda"}
GRAPHS = {"device": "cuda", "cuda_graphs": True}
REFERENCE = Row("torch (eager)", "torch", settings=GPU)
ROWS = (
    Row("torch (eager)", "torch", settings={**GPU, "tf32": True}),
    Row("torch (eager)", "torch", "bf16", {**GPU, "channels_last": True}),
    Row("torch, CUDA graphs", "torch", settings=GRAPHS),
    Row("torch, CUDA graphs", "torch", settings={**GRAPHS, "tf32": True}),
    Row("torch, CUDA graphs", "torch", "bf16", {**GRAPHS, "channels_last": True}),
    Row(COMPILED, COMPILED),
    Row(COMPILED, COMPILED, settings={"tf32": True}),
    Row(COMPILED, COMPILED, "bf16"),
    Row("onnxruntime, CUDA", "onnxruntime", settings={"provider": "cuda"}),
    Row("onnxruntime, CUDA", "onnxruntime", settings={"provider": "cuda", "tf32": True}),
    Row("onnxruntime, TensorRT", "onnxruntime", settings={"provider": "tensorrt", "tf32": True}, brief=True),
    Row("tensorrt", "tensorrt"),
    Row("tensorrt", "tensorrt", settings={"tf32": True}),
    Row("tensorrt", "tensorrt", "bf16"),
)


class Layer(nn.Module):
    """Attention and a net of two layers, each added to its input and normalised after, as BERT does."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.net = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) to the same."""
        heads = self.projection(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*heads.unbind(0)).transpose(1, 2).flatten(2)
        x = self.first(x + self.out(attended))
        return self.second(x + self.net(x))  # type: ignore[no-any-return]  # torch types a module's call as Any


class Encoder(nn.Module):
    """An encoder of the size of BERT-base (Devlin et al., 2019), with a head of two classes on its first token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.layers = nn.Sequential(nn.LayerNorm(WIDTH), *(Layer() for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, tokens) to logits (N, classes)."""
        return self.head(self.layers(self.words(tokens) + self.places)[:, 0])  # type: ignore[no-any-return]  # likewise


@dataclass(frozen=True)
class Net:
    """A net, its signature, and examples that it is timed with."""

    name: str
    module: nn.Module
    signature: Signature
    examples: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, name: str) -> Net:
        """The same net every time."""
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        if name == ENCODER:
            tokens = rng.integers(0, VOCABULARY, (max(BATCHES), TOKENS))
            return cls(name, Encoder().eval(), TEXTS, {"tokens": tokens})
        images = rng.standard_normal((max(BATCHES), 3, 224, 224), dtype=np.float32)
        net = ResNet(name)
        with torch.inference_mode():
            net.train()
            net(torch.from_numpy(images[:8]))  # batch-norm takes its statistics from what it sees
        return cls(name, net.eval(), IMAGES, {"image": images})


ENCODER = "Encoder of BERT-base's size"
NETS = ("ResNet-50", ENCODER)


class Files:
    """The exported forms of one net, each made when it is first asked for, and the engine files."""

    def __init__(self, net: Net, folder: Path) -> None:
        self._net = net
        self._folder = folder
        self._example = {name: array[:2] for name, array in net.examples.items()}

    def built(self, row: Row) -> Path:
        """What a row runs.

        Raises:
            SlipwayError: the engine cannot have it, with the reason.
        """
        if row.engine == COMPILED:
            if importlib.util.find_spec("triton") is None:
                raise UnsupportedError("triton, by which Inductor writes kernels for GPUs, is not installed")
            return self._source(Form.PROGRAM, row.variant)
        check_settings(row.engine, row.settings)
        runtime = engine(row.engine)
        out = self._folder / f"{row.name}{runtime.suffix}"
        variant = "fp32" if runtime.form is Form.ONNX else row.variant  # from ONNX the engine lowers it itself
        options = BuildOptions(
            variant=row.variant, signature=self._net.signature, batch=BATCHES, settings=dict(row.settings)
        )
        runtime.build(self._source(runtime.form, variant), out, options)
        return out

    def _source(self, form: Form, variant: str) -> Path:
        path = self._folder / f"{variant}.{form}"
        if path.exists():
            return path
        if form is Form.ONNX:
            export_onnx(self._net.module, self._example, self._net.signature, path)
            return path
        module = self._net.module
        if variant == "bf16":
            program = load_program("torch", self._source(form, "fp32")).module()
            module = to_reduced(program, self._example, self._net.signature, "bf16")
        export_program(module, self._example, self._net.signature, path)
        return path


def participant(row: Row, path: Path, data: Path) -> Participant:
    """A row in a process of its own."""
    timed = ("-m", "slipway.steps.timed_engine", row.engine)
    if row.engine == COMPILED:
        timed = (str(Path(__file__).resolve()), "--compiled", row.precision)
    return Participant(row.name, (sys.executable, *timed, str(path), str(data)), brief=row.brief)


def serve_compiled(precision: str, path: Path, data: Path) -> int:
    """Serve timing requests with a program that Inductor compiles, once for each shape, as `Participant` wants it."""
    stdout = claim_stdout()
    signature, label = read_signature("torch", path), CudaLabel(tf32=precision == "tf32")
    module = torch.compile(module_on(load_program("torch", path), "cuda"), dynamic=False)

    @contextmanager
    def load(threads: int, _: int) -> Iterator[Infer]:
        with CudaSession(module, signature, threads, label) as session:
            yield session.infer

    def inputs(batch: int) -> Arrays:
        found = examples(data, [spec.name for spec in signature.inputs], batch)
        return {name: np.resize(array, (batch, *array.shape[1:])) for name, array in found.items()}

    def profile(*_: object) -> Profile:
        raise UnsupportedError("it is no engine")

    return serve(load, inputs, profile, sys.stdin, stdout)


def race(name: str, budget_s: float) -> list[str]:
    """The tables of one net, a batch size each."""
    with tempfile.TemporaryDirectory() as directory:
        folder, net = Path(directory), Net.load(name)
        data = folder / "data"
        targets = np.zeros(max(BATCHES), np.int64)
        write_shards(data, net.examples, targets, shard_size=max(BATCHES))
        files = Files(net, folder)
        eager = files.built(REFERENCE)
        built: list[tuple[Row, Path]] = []
        missing: dict[str, list[str]] = {}
        for number, row in enumerate(ROWS):
            _tell(f"{name}: building {row.name} ({number + 1} of {len(ROWS)})")
            try:
                built.append((row, files.built(row)))
            except SlipwayError as error:
                missing.setdefault(str(error), []).append(row.name)
        lines, cpus = [], os.sched_getaffinity(0)
        for batch in BATCHES:
            _tell(f"{name}: timing batch {batch}")
            session = run_session(
                participant(REFERENCE, eager, data),
                [participant(row, path, data) for row, path in built],
                TimingPlan(threads=(min(CPUS, len(cpus)),), batch=(batch,), samples=192, budget_seconds=budget_s),
                cpus,
            )
            lines += [f"### {name}, batch {batch}", "", *table(session, [row for row, _ in built], missing)]
    return lines


def table(session: SessionTimings, rows: Sequence[Row], unbuilt: Mapping[str, Sequence[str]]) -> list[str]:
    """What was timed, fastest last, and in the foot why the rest is missing."""
    eager, missing = session.reference, {reason: list(names) for reason, names in unbuilt.items()}
    measured: list[tuple[Row, ParticipantTiming]] = []
    for row, timing in zip(rows, session.candidates, strict=True):
        if isinstance(timing, ParticipantTiming):
            measured.append((row, timing))
        else:
            missing.setdefault(str(timing), []).append(row.name)
    measured.sort(key=lambda one: one[1].timing.speedup.value)
    first = (REFERENCE.told, REFERENCE.precision, f"{eager.timing.latency.p50_ms:.3f}", "1", "", "")
    cells = [_cells(row, timing, eager) for row, timing in measured]
    reasons = [f"- {' and '.join(names)}: {reason}" for reason, names in missing.items()]
    foot = ["Not in the table:", "", *reasons, ""] if reasons else []
    return [line(HEADINGS), line("---" for _ in HEADINGS), *map(line, (first, *cells)), "", *foot]


def _cells(row: Row, timing: ParticipantTiming, eager: ParticipantTiming) -> tuple[str, ...]:
    speedup = timing.timing.speedup
    return (
        row.told,
        row.precision,
        f"{timing.timing.latency.p50_ms:.3f}",
        f"{speedup.value:.2f}x",
        f"{speedup.lower:.2f} to {speedup.upper:.2f}",
        f"{_difference(timing, eager):.1e}",
    )


def _difference(timing: ParticipantTiming, eager: ParticipantTiming) -> float:
    """Of the answers from those of eager fp32, relative to the largest of these."""
    pairs = [(timing.outputs[name], value) for name, value in eager.outputs.items()]
    return max(float(np.abs(found - value).max() / np.abs(value).max()) for found, value in pairs)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    """Time the nets and replace what stands between the markers in the guide; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=NETS, choices=NETS)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of interleaved rounds per net and batch")
    parser.add_argument("--dry-run", action="store_true", help="print the tables and write nothing")
    parser.add_argument("--compiled", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.compiled:
        precision, path, data = asked.compiled
        return serve_compiled(precision, Path(path), Path(data))
    try:
        gpu = first_gpu()
        require_cuda("torch")
    except UnsupportedError as error:
        _tell(f"benchmarks/gpu.py needs an NVIDIA GPU and PyTorch's CUDA build: {error}")
        return NO_GPU_EXIT_CODE
    lines = []
    with host_to_itself():
        for name in asked.nets:
            lines += race(name, asked.budget)
    host = describe({})
    lines += [
        f"Measured on {gpu.name} (compute capability {gpu.capability}, driver {host.driver or 'unknown'}) with PyTorch "
        f"{torch.__version__}, CUDA {torch.version.cuda}, on a host of {host.cpu}, {host.cores} cores.",
        "",
    ]
    print("\n".join(lines))
    if not asked.dry_run:
        write(GUIDE, "gpu", "benchmarks/gpu.py", "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
