"""A worker process whose engine spins, sleeps or misbehaves as told: ``python stand_in_worker.py JSON``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from slipway.errors import UnsupportedError
from slipway.measure.arrays import Arrays, Infer
from slipway.measure.worker import claim_stdout, serve
from slipway.records import Layer, Profile
from tests.unit.measure.participants import Behaviour


def main(behaviour: Behaviour) -> int:
    stdout = claim_stdout()
    if behaviour.journal:
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
        note(behaviour.journal, pid=os.getpid(), child=child.pid, cpus=sorted(os.sched_getaffinity(0)))
    calls = opened = 0

    @contextmanager
    def load(threads: int, streams: int) -> Iterator[Infer]:
        nonlocal opened
        opened += 1
        if behaviour.journal:
            note(behaviour.journal, opened_by=os.getpid(), on=sorted(os.sched_getaffinity(0)), threads=threads)
        spins = behaviour.spins * 3 // 2 if behaviour.slower_openings and opened % 2 else behaviour.spins
        if behaviour.unsupported:
            raise UnsupportedError("this engine has no int8 kernels")

        def infer(inputs: Arrays) -> Arrays:
            nonlocal calls
            calls += 1
            start = time.monotonic_ns()
            if calls == behaviour.dies_at:
                raise SystemExit("out of memory, says the runtime")
            if calls == behaviour.hangs_at:
                time.sleep(600)
            if behaviour.hiccup_every and calls % behaviour.hiccup_every == 0:
                time.sleep(behaviour.hiccup_seconds)
            if behaviour.sleep_seconds:
                time.sleep(behaviour.sleep_seconds * (1 + behaviour.slows_by) ** calls / threads)
            sum(range(spins))
            if behaviour.journal:
                note(behaviour.journal, pid=os.getpid(), start=start, end=time.monotonic_ns())
            return {"y": np.asarray(inputs["x"]) * threads}

        yield infer
        if behaviour.journal:
            note(behaviour.journal, closed_by=os.getpid())

    def profile(threads: int, arrays: Arrays, calls: int, trace: Path) -> Profile:
        if not behaviour.profiled:
            raise UnsupportedError("this runtime has no profiler")
        if behaviour.stumbles:
            raise KeyError("no such event\nin the trace")
        trace.write_text("{}")
        layer = Layer(name="spin", kind="Spin", precision="fp32", multiplies=True, time_us=1.0)
        return Profile(tool="stand-in", layers=(layer,), calls=calls, batch=len(arrays["x"]), threads=threads)

    os.write(1, b"a runtime greets on stdout\n")
    return serve(load, lambda batch: {"x": np.arange(batch)}, profile, sys.stdin, stdout)


def note(journal: str, **facts: Any) -> None:
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    sys.exit(main(Behaviour(**json.loads(sys.argv[1]))))
