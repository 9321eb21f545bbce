"""Run in a process of its own: load an engine file, answer, and count the process's threads."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import psutil

from slipway.engines import engine
from slipway.engines.base import RunOptions

THREADS_AT_1, THREADS_AT_2 = "threads_at_1", "threads_at_2"


def main(name: str, path: str, inputs: str, outputs: str) -> None:
    """Answer ``inputs`` (npz) into ``outputs`` (npz), with the threads alive when 1 and then 2 were asked for."""
    with np.load(inputs) as file:
        arrays = dict(file)
    alive = {}
    for threads, key in ((1, THREADS_AT_1), (2, THREADS_AT_2)):
        with engine(name).load(Path(path), RunOptions(threads=threads)) as session:
            session.infer({key: np.repeat(array, 64, axis=0) for key, array in arrays.items()})
            answers = session.infer(arrays)
            alive[key] = np.array(psutil.Process().num_threads())
    np.savez(outputs, **answers, **alive)


if __name__ == "__main__":
    main(*sys.argv[1:])
