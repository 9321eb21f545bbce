"""Slipway's server beside others, all in front of the same ResNet-18 int8 file in ONNX Runtime with the same threads.

Run it on an idle machine: ``.venv/bin/python benchmarks/serving.py``. It takes about ten minutes, the first time some
more to install the servers that do not fit into our environment into their own. Its table goes into
docs/guides/serving.md.
All servers run at the same time and are asked in turns, one at a time; so is the bare session, which no server stands
in front of: what a server adds is the difference of the two medians within one round.

Every server has one process for the engine, and is asked in the quickest form that it takes. The callers run on the
same cores as the servers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from engines import Files, Images, fitted
from examples import ROOT, line, machine, write
from servers.contenders import CONTENDERS, SCRIPTS, Contender, Place, free_port, python_of, started, version_of
from servers.load import Request, Served, Window, closed_loop, server_scenario

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.measure.hardware import describe
from slipway.measure.latency import SAMPLES_FOR_P99
from slipway.steps.benchmark import host_to_itself

VENVS = ROOT / ".slipway" / "bench"
ROUNDS, BLOCKS = 3, 4
SECONDS = 5.0  # per server, round and number of callers
CALLERS = (1, 8, 32)
SHARE_OF_PEAK = 0.7
BOUND_MS = 100.0
SCENARIO_SECONDS = 20.0
HEADINGS = (
    "server",
    "asked with",
    "added p50 ms",
    *(
        f"{what}, {callers} caller{'s' if callers > 1 else ''}"
        for callers in CALLERS
        for what in ("p50 / p99 ms", "req/s")
    ),
)


class Bare:
    """The bare session in a process of its own; a context manager that ends it."""

    def __init__(self, model: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "bare.py"), str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def times_s(self, seconds: float) -> list[float]:
        """The times of its calls, for so long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        found: list[float] = json.loads(self._process.stdout.readline())
        return found

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


@dataclass
class Measured:
    """What was measured on one server: windows by callers, and what it added in each round, in ms."""

    windows: dict[int, list[Window]] = field(default_factory=lambda: defaultdict(list))
    added_ms: list[float] = field(default_factory=list)

    def per_s(self, callers: int) -> float:
        """The median over the rounds."""
        return statistics.median(window.per_s for window in self.windows[callers])

    def cells(self) -> list[str]:
        """What it added, and latency and rate by callers."""
        cells = [f"{statistics.median(self.added_ms):.2f}"]
        for callers in CALLERS:
            times = [one for window in self.windows[callers] for one in window.times_s]
            p99 = f"{1e3 * np.quantile(times, 0.99):.1f}" if len(times) >= SAMPLES_FOR_P99 else "-"
            cells += [f"{1e3 * np.median(times):.1f} / {p99}", f"{self.per_s(callers):.0f}"]
        return cells


class Turns:
    """Asks the servers in turns; one that breaks is asked no more, and told of with the reason in ``broken``."""

    def __init__(self, bare: Bare, requests: Mapping[str, Request], seconds: float) -> None:
        self._bare, self._requests, self._seconds = bare, dict(requests), seconds
        self._measured = {name: Measured() for name in requests}
        self._bare_s: list[float] = []
        self.broken: list[str] = []

    @property
    def measured(self) -> dict[str, Measured]:
        """What was measured on each server that answered to the end."""
        return {name: self._measured[name] for name in self._requests}

    @property
    def bare_ms(self) -> float:
        """The bare session's median."""
        return 1e3 * statistics.median(self._bare_s)

    def round(self) -> None:
        """One caller in short blocks, the bare session among them; then more callers in one block each."""
        times_s: dict[str, list[float]] = defaultdict(list)
        bare_s: list[float] = []
        for _ in range(BLOCKS):
            bare_s += self._bare.times_s(self._seconds / BLOCKS)
            for name, window in self._windows(1, self._seconds / BLOCKS):
                times_s[name] += window.times_s
        for name, times in times_s.items():
            self._measured[name].windows[1].append(Window(times, len(times) / sum(times)))
            self._measured[name].added_ms.append(1e3 * (statistics.median(times) - statistics.median(bare_s)))
        for callers in CALLERS[1:]:
            for name, window in self._windows(callers, self._seconds):
                self._measured[name].windows[callers].append(window)
        self._bare_s += bare_s

    def _windows(self, callers: int, seconds: float) -> Iterator[tuple[str, Window]]:
        for name in list(self._requests):
            try:
                yield name, closed_loop(self._requests[name], callers, seconds)
            except OSError as error:
                self.broken.append(f"{name}: with {callers} callers, {error}")
                del self._requests[name]


@contextmanager
def all_started(
    asked: Sequence[Contender], model: Path, image: np.ndarray, folder: Path, threads: int
) -> Iterator[tuple[dict[str, Request], dict[str, str], list[str]]]:
    """Each server's request and version, and those that did not start, each with the reason."""
    requests: dict[str, Request] = {}
    versions: dict[str, str] = {}
    missing: list[str] = []
    with engine("onnxruntime").load(model, RunOptions(threads=threads)) as session:
        expected = session.infer({"image": image})["logits"]
    with ExitStack() as running:
        for contender in asked:
            print(f"starting {contender.name}", file=sys.stderr, flush=True)
            place = folder / re.sub("[^a-z]+", "-", contender.name.lower())
            place.mkdir()
            try:
                python = python_of(contender, VENVS)
                versions[contender.name] = version_of(contender, python)
                where = Place(python, model, place, free_port(), threads)
                requests[contender.name] = running.enter_context(started(contender, where, image, expected))
            except (OSError, subprocess.CalledProcessError) as error:
                missing.append(f"{contender.name}: {' '.join(str(error).split())[-600:]}")
        yield requests, versions, missing


def table(asked: Sequence[Contender], measured: Mapping[str, Measured], versions: Mapping[str, str]) -> list[str]:
    """The servers in Markdown, the one that adds least first."""
    found = [contender for contender in asked if contender.name in measured]
    found.sort(key=lambda contender: statistics.median(measured[contender.name].added_ms))
    rows = [line([_called(one, versions), one.form, *measured[one.name].cells()]) for one in found]
    return [line(HEADINGS), line("---" for _ in HEADINGS), *rows]


def _called(server: Contender, versions: Mapping[str, str]) -> str:
    """Its name and version, and what it is started with."""
    name, dashes, options = server.name.partition(" --")
    return f"{name} {versions[server.name]}{dashes}{options}"


def told(bare_ms: float, ours: Measured, served: Served, missing: Sequence[str], threads: int) -> list[str]:
    """What the table does not say."""
    added = sorted(ours.added_ms)
    verdict = "valid" if served.valid else "not valid"
    words = [
        f"The bare session takes {bare_ms:.2f} ms (p50, in the same rounds); Slipway added {added[0]:.2f} to "
        f"{added[-1]:.2f} ms in the rounds. LoadGen's Server scenario against Slipway, {served.target_per_s:.0f} "
        f"requests/s ({SHARE_OF_PEAK:.0%} of its highest rate) arriving at random: {verdict} at a bound of "
        f"{BOUND_MS:g} ms, p99 {served.p99_ms:.1f} ms, {served.queries} requests.",
        "",
        f"Measured on {machine(describe({}).model_dump())}, the callers among the servers, {threads} threads; a p99 is "
        f"told from {SAMPLES_FOR_P99} requests on.",
        "",
    ]
    return ([f"Not in the table: {'; '.join(missing)}.", ""] if missing else []) + words


def main() -> None:
    """Measure, and replace what stands between the markers in docs/guides/serving.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--servers", nargs="+", default=names, choices=names, help="beside Slipway")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs; writes nothing")
    parser.add_argument("--dry-run", action="store_true", help="print the table and write nothing")
    options = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # nothing of this belongs into anybody's registry
    rounds, seconds = (1, 1.0) if options.quick else (ROUNDS, SECONDS)
    asked = [one for one in CONTENDERS if one.name == names[0] or one.name in options.servers]
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    with host_to_itself(), tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        images = Images.load()
        model = Files(fitted("ResNet-18", images), images, folder).built("onnxruntime", "int8-static")
        image = images.held_out[:1]
        with ExitStack() as running:
            requests, versions, missing = running.enter_context(all_started(asked, model, image, folder, threads))
            bare = running.enter_context(Bare(model, threads))
            if names[0] not in requests:
                raise SystemExit("; ".join(missing))
            turns = Turns(bare, requests, seconds)
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                turns.round()
            missing += turns.broken
            if names[0] not in turns.measured:
                raise SystemExit("; ".join(missing))
            ours = turns.measured[names[0]]
            peak = max(ours.per_s(callers) for callers in CALLERS)
            scenario_seconds = 2.0 if options.quick else SCENARIO_SECONDS
            served = server_scenario(requests[names[0]], SHARE_OF_PEAK * peak, BOUND_MS, scenario_seconds)
    lines = [*table(asked, turns.measured, versions), "", *told(turns.bare_ms, ours, served, missing, threads)]
    print("\n".join(lines))
    if not (options.quick or options.dry_run):
        write(ROOT / "docs" / "guides" / "serving.md", "serving", "benchmarks/serving.py", "\n".join(lines))


if __name__ == "__main__":
    main()
