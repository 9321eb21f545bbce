"""A schedule for CPUs that needs no tuning: register tiles for what multiplies, parallel and vector loops for the rest.

TVM has none of its own for convolutions and matrix products on CPUs: as plain loops, they took 20 to 45 times as long
as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import LoopRV, SBlockRV

# Sums of one tile, which LLVM keeps in vector registers: it cannot do so with buffers of 1 KiB and more, which TVM
# takes from a heap of its own.
TILE_FLOATS = 240
VECTORS_IN_A_ROW = 2


@dataclass(frozen=True)
class Tile:
    """How many sums a kernel that multiplies keeps in registers, and how many vectors of them lie in a row."""

    floats: int = TILE_FLOATS
    vectors: int = VECTORS_IN_A_ROW


# The usual one first, which was the quickest most often; tuning tries the others in this order.
TILES = tuple(Tile(floats, vectors) for floats in (240, 128, 64, 32) for vectors in (2, 1, 4))
SPATIAL, REDUCTION = 0, 2  # kinds of loop, as tirx.IterVar numbers them
SCHEDULED = "tirx.is_scheduled"


def schedule(
    module: tvm.IRModule, target: tvm.target.Target, tile_of: Callable[[tvm.tirx.PrimFunc], Tile]
) -> tvm.IRModule:
    """``module`` with a schedule for every kernel that has none yet; a kernel that none fits keeps its plain loops."""
    from tvm.s_tir.schedule import ScheduleError
    from tvm.tirx import PrimFunc

    for variable, function in module.functions_items():
        if not isinstance(function, PrimFunc) or (function.attrs and SCHEDULED in function.attrs):
            continue
        try:
            module[variable] = scheduled(function, target, tile_of(function))
        except ScheduleError:
            continue
    return module


def scheduled(function: tvm.tirx.PrimFunc, target: tvm.target.Target, tile: Tile) -> tvm.tirx.PrimFunc:
    """One kernel with its schedule.

    Raises:
        ScheduleError: (TVM's) it has loops that this schedule does not fit.
    """
    from tvm.target.codegen import llvm_get_vector_width

    lanes = max(int(llvm_get_vector_width(target)) // 32, 4)
    return _scheduled(function, lanes, tile).with_attr(SCHEDULED, True)


def multiplies_once(function: tvm.tirx.PrimFunc) -> bool:
    """Whether exactly one block of a kernel adds up products: the ones whose tile can be chosen."""
    from tvm.s_tir import Schedule

    plan = Schedule(function)
    return sum(multiplies(plan.get(block)) for block in _blocks(plan)) == 1


def multiplies(block: tvm.tirx.SBlock) -> bool:
    """Whether a block adds up products of two buffers, as convolutions and matrix products do."""
    from tvm.tirx import Add, BufferStore, Mul

    if not isinstance(block.body, BufferStore) or not isinstance(block.body.value, Add):
        return False
    operands = {str(region.source) for region in block.reads} - {str(region.source) for region in block.writes}
    return isinstance(block.body.value.b, Mul) and len(operands) > 1


def _scheduled(function: tvm.tirx.PrimFunc, lanes: int, tile: Tile) -> tvm.tirx.PrimFunc:
    from tvm.s_tir import Schedule

    plan = Schedule(function)
    products = {plan.get(block).name_hint for block in _blocks(plan) if multiplies(plan.get(block))}
    _inline(plan, products)
    blocks = _blocks(plan)
    names = [plan.get(block).name_hint for block in blocks]
    if len(products) == 1:
        at = names.index(*products)
        before, product, after = blocks[:at], blocks[at], blocks[at + 1 :]
        if len(after) <= 1 and _fits_a_tile(plan, product):
            for block in before:
                _spread(plan, block, lanes)
            _tile(plan, product, after[0] if after else None, lanes, tile)
            return plan.mod["main"]
    for block in blocks:
        _spread(plan, block, lanes)
    return plan.mod["main"]


def _inline(plan: Schedule, products: set[str]) -> None:
    """Compute what each element needs where it is needed, but for a product's operands, such as a padded image."""
    from tvm.s_tir.schedule import ScheduleError

    for block in _blocks(plan)[:-1]:
        feeds = {plan.get(consumer).name_hint for consumer in plan.get_consumers(block)} & products
        if not feeds and set(_kinds(plan, block)) <= {SPATIAL}:
            try:
                plan.compute_inline(block)
            except ScheduleError:  # an output of the kernel, for one
                continue


def _tile(plan: Schedule, product: SBlockRV, epilogue: SBlockRV | None, lanes: int, tile: Tile) -> None:
    """Sum a tile of rows x vectors over all reductions, then write it out through ``epilogue``."""
    spatial, reduction = _loops(plan, product)
    vectors, vector = plan.split(spatial[-1], [None, _vector(_extent(plan, spatial[-1]), lanes, tile.vectors)])
    rows = _last_row(plan, spatial)
    outer, inner = [*spatial[:1], vectors, *spatial[1:-1]] if len(spatial) > 1 else [vectors], [vector]
    if rows is not None:
        place = next(i for i, loop in enumerate(outer) if loop.same_as(rows))
        most = max(tile.floats // _extent(plan, vector), 1)
        outer[place], row = plan.split(rows, [None, _divisor(_extent(plan, rows), most)])
        inner = [row, vector]
    plan.reorder(*outer, *reduction, *inner)
    write = epilogue if epilogue is not None else plan.cache_write(product, 0, "global")
    tiles = plan.fuse(*outer)
    plan.parallel(tiles)
    plan.reverse_compute_at(write, tiles)
    _unroll(plan, inner)
    # Loops of one step are gone from it; one that writes in another order than the sums were made in writes more.
    _unroll(plan, plan.get_loops(write)[1:])
    plan.decompose_reduction(product, plan.get_loops(product)[1])


def _unroll(plan: Schedule, loops: Sequence[LoopRV]) -> None:
    """Make the last of ``loops`` a vector and write out the others, if they are of a tile's size."""
    steps = [_extent(plan, loop) for loop in loops]
    if not loops or not 0 < math.prod(steps) <= TILE_FLOATS:
        return
    for loop in loops[:-1]:
        plan.unroll(loop)
    plan.vectorize(loops[-1])


def _spread(plan: Schedule, block: SBlockRV, lanes: int) -> None:
    """Spread a block's outer loops over threads, its innermost over a vector."""
    spatial, reduction = _loops(plan, block)
    if not spatial or len(spatial) + len(reduction) != len(plan.get_loops(block)):
        return
    extent = _extent(plan, spatial[-1])
    vector, outer = None, spatial
    if extent > 1:
        rest, vector = plan.split(spatial[-1], [None, _vector(extent, lanes)])
        outer = [*spatial[:-1], rest]
        plan.reorder(*outer, *reduction, vector)
    plan.parallel(plan.fuse(*outer))
    if vector is not None:
        plan.vectorize(vector)
    if reduction:
        plan.decompose_reduction(block, plan.get_loops(block)[1])


def _fits_a_tile(plan: Schedule, product: SBlockRV) -> bool:
    spatial, reduction = _loops(plan, product)
    return bool(spatial and reduction) and _extent(plan, spatial[-1]) > 0


def _last_row(plan: Schedule, spatial: Sequence[LoopRV]) -> LoopRV | None:
    """The innermost loop but one that is more than one step, if its length is known."""
    long = [loop for loop in spatial[:-1] if _extent(plan, loop) != 1]
    return long[-1] if long and _extent(plan, long[-1]) > 1 else None


def _blocks(plan: Schedule) -> list[SBlockRV]:
    return list(plan.get_child_blocks(plan.get_sblock("root")))


def _kinds(plan: Schedule, block: SBlockRV) -> list[int]:
    return [int(axis.iter_type) for axis in plan.get(block).iter_vars]


def _loops(plan: Schedule, block: SBlockRV) -> tuple[list[LoopRV], list[LoopRV]]:
    pairs = list(zip(plan.get_loops(block), _kinds(plan, block), strict=True))
    return [loop for loop, kind in pairs if kind == SPATIAL], [loop for loop, kind in pairs if kind == REDUCTION]


def _extent(plan: Schedule, loop: LoopRV) -> int:
    """How often a loop runs; 0 where only a call tells."""
    extent: Any = plan.get(loop).extent
    return int(getattr(extent, "value", 0))


def _vector(extent: int, lanes: int, most: int = VECTORS_IN_A_ROW) -> int:
    for size in (count * lanes for count in (4, 2, 1) if count <= most):
        if extent % size == 0:
            return size
    return _divisor(extent, most * lanes)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of ``number`` that is at most ``most``."""
    return max(size for size in range(1, min(number, most) + 1) if number % size == 0)
