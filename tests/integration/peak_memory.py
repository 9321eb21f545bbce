"""Validate one engine in a process of its own: ``-m tests.integration.peak_memory ENGINE DATA STORE``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from slipway.config import AccuracyParams
from slipway.records import Built, CandidateSpec, DataSource
from slipway.steps.validate import evaluate_reference, validate
from slipway.stores.objects import ObjectStore

POLICY = AccuracyParams(metric="mae")


def main(engine: Path, data: Path, store: Path) -> None:
    """Let it be its own reference; print how many examples were compared, and the process's peak memory in bytes."""
    objects = ObjectStore(store)
    spec = CandidateSpec(target="x86", variant="fp32", engine="onnxruntime")
    built = Built(spec=spec, artifact=objects.put(engine), options={}, engine_version="")
    source = DataSource(path=str(data), md5="d" * 32 + ".dir", files=1, size_bytes=1)
    reference = evaluate_reference(objects, built, source, POLICY, threads=1)
    done = validate(objects, built, source, reference, POLICY, threads=1)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    sys.stdout.write(f"{done.accuracy.n} {int(peak) * 1024}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
