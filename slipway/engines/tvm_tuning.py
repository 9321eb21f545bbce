"""Tuning for TVM: of each kernel that multiplies, a few tiles are compiled and timed on this CPU, and the best is kept.

The tiles are those of our own schedule: the MetaSchedule of TVM 0.27 ends with a segmentation fault on x86 as soon as
it is given its own default rules.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slipway.engines.tvm_schedule import TILES, Tile, multiplies_once, scheduled
from slipway.engines.users_cache import in_users_cache

if TYPE_CHECKING:
    import tvm

MIN_REPEAT_MS, REPEATS = 20, 5
WORTH = 0.97  # of the usual tile's time; less is noise


@dataclass
class TuningLog:
    """Microseconds of a kernel by its tile, kept in a file of JSON lines from build to build; each is timed once."""

    path: Path
    times_us: dict[tuple[str, Tile], float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TuningLog:
        """The log in ``path``, empty where there is none; a line cut off by a killed build is left out."""
        log = cls(path)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                one = json.loads(line)
                log.times_us[one["kernel"], Tile(one["floats"], one["vectors"])] = float(one["time_us"])
            except (ValueError, TypeError, KeyError):
                continue
        return log

    def add(self, kernel: str, tile: Tile, time_us: float) -> None:
        """Keep one more."""
        self.times_us[kernel, tile] = time_us
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"kernel": kernel, "floats": tile.floats, "vectors": tile.vectors, "time_us": time_us}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # one write: builds at the same time share the file


@dataclass(frozen=True)
class Tuned:
    """The tiles of those of ``kernels``, by their hashes, for which another than the usual one was quicker."""

    tiles: Mapping[str, Tile] = field(default_factory=dict)
    kernels: int = 0

    @property
    def sha256(self) -> str:
        """Of what was chosen: two builds with the same were scheduled alike."""
        chosen = sorted((kernel, tile.floats, tile.vectors) for kernel, tile in self.tiles.items())
        return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()

    def tile(self, kernel: tvm.tirx.PrimFunc) -> Tile:
        """The tile to schedule ``kernel`` with."""
        return self.tiles.get(kernel_hash(kernel), TILES[0]) if self.tiles else TILES[0]


def log_path(version: str, cpu: str) -> Path:
    """The user's own log for one version of TVM and one kind of CPU."""
    return in_users_cache("tvm", version, cpu, suffix=".jsonl")


def tune(module: tvm.IRModule, target: tvm.target.Target, trials: int, log: TuningLog) -> Tuned:
    """Time up to ``trials`` tiles of each kernel in ``module`` whose sizes are all known, and choose the quickest.

    Kernels are timed on as many threads as the machine has CPUs, with random inputs.
    """
    tiles, kernels = {}, 0
    for kernel in _tunable(module):
        name = kernel_hash(kernel)
        kernels += 1
        for tile in TILES[:trials]:
            if (name, tile) not in log.times_us:
                log.add(name, tile, _time_us(kernel, tile, target))
        times_us = {tile: log.times_us[name, tile] for tile in TILES[:trials]}
        best = min(times_us, key=lambda tile: times_us[tile])
        if times_us[best] < WORTH * times_us[TILES[0]]:
            tiles[name] = best
    return Tuned(tiles, kernels)


def kernel_hash(kernel: tvm.tirx.PrimFunc) -> str:
    """The same for kernels of the same structure, whatever they are called."""
    from tvm_ffi import structural_hash

    return f"{structural_hash(kernel.without_attr('global_symbol')) & (2**64 - 1):016x}"


def _tunable(module: tvm.IRModule) -> Iterator[tvm.tirx.PrimFunc]:
    from tvm.tirx import PrimFunc

    for _, function in module.functions_items():
        if isinstance(function, PrimFunc) and _shapes(function) and multiplies_once(function):
            yield function


def _shapes(function: tvm.tirx.PrimFunc) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of each parameter; none at all where a size is only known when it is called."""
    found = []
    for parameter in function.params:
        buffer: Any = parameter
        sizes = [int(getattr(size, "value", -1)) for size in getattr(buffer, "shape", ())]
        if not sizes or -1 in sizes:
            return []
        found.append((tuple(sizes), str(buffer.dtype)))
    return found


def _time_us(kernel: tvm.tirx.PrimFunc, tile: Tile, target: tvm.target.Target) -> float:
    """The least of `REPEATS` mean times of a call, as other load only adds; infinite where the tile does not fit."""
    import tvm
    from tvm.s_tir.schedule import ScheduleError

    try:
        planned = scheduled(kernel, target, tile)
    except ScheduleError:
        return float("inf")
    with target:
        library = tvm.compile(tvm.IRModule({"main": planned.with_attr("global_symbol", "main")}), target=target)
    drawn = np.random.default_rng(0)
    arrays = [tvm.runtime.tensor(drawn.random(shape).astype(dtype)) for shape, dtype in _shapes(kernel)]
    timed = library.mod.time_evaluator("main", tvm.cpu(), number=1, repeat=REPEATS, min_repeat_ms=MIN_REPEAT_MS)(
        *arrays
    )
    return float(min(timed.results)) * 1e6
