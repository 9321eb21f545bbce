"""Run one engine file, for another tool to watch: ``python -m slipway.engines ENGINE FILE [--calls N]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.errors import SlipwayError
from slipway.records import TensorSpec


def main(arguments: list[str]) -> int:
    """Call the engine again and again with one example of noise; the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m slipway.engines", description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("file", type=Path)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    try:
        with engine(asked.engine).load(asked.file, RunOptions(threads=asked.threads)) as session:
            arrays = {spec.name: _noise(spec) for spec in session.inputs}
            for _ in range(asked.calls):
                session.infer(arrays)
    except SlipwayError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command of its own
        return error.exit_code
    return 0


def _noise(spec: TensorSpec) -> np.ndarray:
    """One example, each dynamic dimension of size 1; whole numbers are 0, which any vocabulary has."""
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
