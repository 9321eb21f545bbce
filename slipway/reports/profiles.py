"""Profiles as tables of one form for all runtimes, and the command lines that look deeper on a GPU."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from slipway.records import Evidence, Layer, Profile

MOST_EXPENSIVE = 10
# A call has some hundred kernels; ncu replays each several times.
NSYS_CALLS, NCU_CALLS = 200, 3


def time_us(layers: Sequence[Layer]) -> float:
    """Time that ``layers`` take together in a call; 0 where the runtime told none."""
    return sum(layer.time_us or 0.0 for layer in layers)


def profile_table(profile: Profile) -> str:
    """Every executed operation as CSV, in order, with its mean time per call in us and its share of all operators'."""
    total_us = time_us(profile.layers)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "kind", "precision", "multiplies", "time_us", "share"))
    for layer in profile.layers:
        timed = layer.time_us is not None and total_us > 0
        time, share = (f"{layer.time_us:.3f}", f"{(layer.time_us or 0.0) / total_us:.4f}") if timed else ("", "")
        writer.writerow((layer.name, layer.kind, layer.precision, str(layer.multiplies).lower(), time, share))
    return text.getvalue()


def most_expensive(profile: Profile) -> list[str]:
    """The ten operators that take most of a call, as lines of a table."""
    total_us = time_us(profile.layers)
    ordered = sorted(profile.layers, key=lambda layer: -(layer.time_us or 0.0))[:MOST_EXPENSIVE]
    if not total_us:
        return [f"{profile.tool} told no times"]
    width = max(len(layer.kind) for layer in ordered)
    lines = [f"{'time us':>9}  {'share':>6}  {'runs in':<8}{'kind':<{width}}  operator"]
    for layer in ordered:
        spent_us = layer.time_us or 0.0
        place = f"{layer.precision:<8}{layer.kind:<{width}}  {layer.name}"
        lines.append(f"{spent_us:>9.1f}  {spent_us / total_us:>6.1%}  {place}")
    return lines


def gpu_commands(evidence: Evidence) -> list[str]:
    """Command lines of Nsight Systems (the whole timeline) and Nsight Compute (each kernel), to run in the project.

    Empty where the candidate has no file, or was measured on a host without a GPU.
    """
    if evidence.hardware.gpu is None or evidence.digest is None:
        return []
    name = f"{evidence.spec.variant}-{evidence.spec.engine}-{evidence.digest[:12]}"
    threads = evidence.timing.latency.threads if evidence.timing else 1
    run = (
        f"python -m slipway.engines {evidence.spec.engine} "
        f".slipway/objects/{evidence.digest[:2]}/{evidence.digest}/engine* --threads {threads}"
    )
    return [
        f"nsys profile --trace=cuda,nvtx,cudnn,cublas,osrt --output={name} {run} --calls {NSYS_CALLS}",
        f"ncu --set=full --export={name} {run} --calls {NCU_CALLS}",
    ]
