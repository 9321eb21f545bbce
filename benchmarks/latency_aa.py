"""Time an engine against itself, in fresh processes: does the speed-up's interval cover 1.0?

``.venv/bin/python benchmarks/latency_aa.py`` runs 20 sessions of eager PyTorch and 20 of ONNX Runtime on a small
convolution net, in 3 to 5 minutes. It prints every interval, how many cover 1.0, how wide they are, and by how much
the sessions' values differ, which is what another start of the processes does. It exits with 1 when fewer than 18 of 20
cover.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from slipway.engines import engine
from slipway.engines.base import BuildOptions
from slipway.exports.onnx import export_onnx
from slipway.exports.program import export_program
from slipway.measure.sessions import Participant, ParticipantTiming, TimingPlan, run_session
from slipway.records import Interval, Signature, TensorSpec
from slipway.steps.benchmark import host_to_itself
from slipway.stores.datasets import write_shards

ENGINES = {"torch": export_program, "onnxruntime": export_onnx}
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 3, 32, 32)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(-1, 10)),),
)
LEAST_COVERED_SHARE = 0.9


def small_net() -> nn.Module:
    """Three convolutions, about 0.05 to 0.3 ms a call: the faster an engine, the more all else disturbs it."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1)]
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def participant(name: str, folder: Path) -> Participant:
    """The engine ``name`` on the small net, built into ``folder``."""
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    write_shards(folder / "data", {"image": images}, np.zeros(4, np.int64), shard_size=4)
    exported, built = folder / f"exported-{name}", folder / f"engine{engine(name).suffix}"
    ENGINES[name](small_net(), {"image": images[:2]}, SIGNATURE, exported)
    engine(name).build(exported, built, BuildOptions(variant="fp32", signature=SIGNATURE))
    command = (sys.executable, "-m", "slipway.steps.timed_engine", name, str(built), str(folder / "data"))
    return Participant(name, command)


def against_itself(name: str, sessions: int) -> list[Interval]:
    """The speed-up of an engine over itself, of each session."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        one = participant(name, Path(folder))
        for number in range(1, sessions + 1):
            plan = TimingPlan(seed=number, throughput_seconds=0.05)
            (result,) = run_session(one, [one], plan, os.sched_getaffinity(0)).candidates
            if not isinstance(result, ParticipantTiming):
                raise result
            timing, load = result.timing, result.timing.host_load
            found.append(timing.speedup)
            print(
                f"{name:12} {number:3}  {_told(timing.speedup)}  {'' if _covers(timing.speedup) else 'misses 1'}"
                f"  p50 {timing.latency.p50_ms:.3f} ms, load {load.load_1m_after:.1f}",
                flush=True,
            )
    return found


def main() -> int:
    """Run the sessions of both engines; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=20, help="per engine (default: 20)")
    sessions = parser.parse_args().sessions
    honest = True
    with host_to_itself():
        found = {name: against_itself(name, sessions) for name in ENGINES}
    print("\nengine        covered  half-width: median, largest  spread of values (standard deviation)")
    for name, intervals in found.items():
        covered = sum(map(_covers, intervals))
        widths = [(one.upper / one.lower - 1) / 2 for one in intervals]
        spread = statistics.stdev(one.value for one in intervals)
        print(f"{name:12}  {covered:3}/{sessions}   {statistics.median(widths):.1%}, {max(widths):.1%}", end="")
        print(f"{'':18}{spread:.2%}")
        honest = honest and covered >= LEAST_COVERED_SHARE * sessions
    return 0 if honest else 1


def _covers(interval: Interval) -> bool:
    return interval.lower <= 1 <= interval.upper


def _told(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.lower:.3f} to {interval.upper:.3f})"


if __name__ == "__main__":
    sys.exit(main())
