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
from tests.unit.measure.participants import Behaviour


def main(behaviour: Behaviour) -> int:
    stdout = claim_stdout()
    if behaviour.journal:
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
        note(behaviour.journal, pid=os.getpid(), child=child.pid, cpus=sorted(os.sched_getaffinity(0)))
    calls = 0

    @contextmanager
    def load(threads: int) -> Iterator[Infer]:
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
                time.sleep(behaviour.sleep_seconds / threads)
            if behaviour.slows_by_seconds:
                time.sleep(calls * behaviour.slows_by_seconds)
            sum(range(behaviour.spins))
            if behaviour.journal:
                note(behaviour.journal, pid=os.getpid(), start=start, end=time.monotonic_ns())
            return {"y": np.asarray(inputs["x"]) * threads}

        yield infer

    os.write(1, b"a runtime greets on stdout\n")
    return serve(load, lambda batch: {"x": np.arange(batch)}, sys.stdin, stdout)


def note(journal: str, **facts: Any) -> None:
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    sys.exit(main(Behaviour(**json.loads(sys.argv[1]))))
