"""An engine computes where its process may run, also after it was moved: timing moves it from round to round."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slipway.engines import engine
from slipway.engines.base import RunOptions
from tests.contract.engines.conftest import Build
from tests.contract.engines.tiny import TinyModel

TICKS = 30  # of 10 ms, that it computes on each CPU


def tasks() -> Iterator[tuple[int, int, int]]:
    """Of each thread of this process its id, the CPU that it last ran on, and the ticks that it has run for."""
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()  # from field 3 on
        yield int(task.name), int(fields[39 - 3]), int(fields[14 - 3]) + int(fields[15 - 3])


def main(name: str, path: str, inputs: str, *cpus: str) -> None:
    """Load an engine file, and compute on each of ``cpus`` in turn; fails where a thread that computes is elsewhere."""
    with np.load(inputs) as file:
        arrays = dict(file)
    with engine(name).load(Path(path), RunOptions(threads=1)) as session:
        session.infer(arrays)
        for cpu in map(int, cpus):
            for task, *_ in tasks():
                os.sched_setaffinity(task, {cpu})
            before = {task: ticks for task, _, ticks in tasks()}
            end = time.process_time() + TICKS / 100
            while time.process_time() < end:
                session.infer(arrays)
            computed = {(task, on) for task, on, ticks in tasks() if ticks - before.get(task, 0) >= TICKS / 3}
            assert computed, "some thread has computed"
            assert {on for _, on in computed} == {cpu}, f"moved to CPU {cpu}, it computes on {computed}"


@pytest.mark.parametrize("name", ["openvino"])
def test_a_process_that_was_moved_computes_where_it_was_moved_to(
    name: str, models: dict[str, TinyModel], build: Build, tmp_path: Path
) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU")
    model = models["residual"]
    np.savez(tmp_path / "inputs.npz", **model.arrays(64))
    command = [__name__, name, build(name, model, "fp32"), tmp_path / "inputs.npz", cpus[-1], cpus[0], cpus[-1]]
    ran = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


if __name__ == "__main__":
    main(*sys.argv[1:])
