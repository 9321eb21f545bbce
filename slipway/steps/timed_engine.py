"""The process that a timing session starts per engine file: ``-m slipway.steps.timed_engine ENGINE FILE DATA``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from slipway.engines import engine
from slipway.engines.base import Arrays, RunOptions
from slipway.engines.streams import load_streams
from slipway.measure.arrays import Infer
from slipway.measure.worker import claim_stdout, serve
from slipway.records import Profile
from slipway.stores.datasets import examples


def main(name: str, path: Path, data: Path) -> int:
    """Serve timing requests on stdin for the engine file ``path``, with inputs from the test set ``data``."""
    stdout = claim_stdout()
    runtime = engine(name)

    @contextmanager
    def load(threads: int, streams: int) -> Iterator[Infer]:
        with load_streams(runtime, path, RunOptions(threads=threads, streams=streams)) as session:
            yield session.infer

    with runtime.load(path, RunOptions()) as session:  # imports the runtime, so that this does not count as loading
        names = [spec.name for spec in session.inputs]

    def inputs(batch: int) -> Arrays:
        sample = examples(data, names, batch)
        return {name: np.resize(array, (batch, *array.shape[1:])) for name, array in sample.items()}

    def profile(threads: int, arrays: Arrays, calls: int, trace: Path) -> Profile:
        return runtime.profile(path, RunOptions(threads=threads), arrays, calls, trace)

    return serve(load, inputs, profile, sys.stdin, stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
