"""What an algorithm on transformed tiles does, from the shapes of its matrix products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convbench.backends.cpu.tiled_planner import strip_elements, strip_of_outputs
from convbench.backends.cpu.windows import pieces
from convbench.problem import ConvPass
from convbench.work import Phase, Work, epilogue_flops

if TYPE_CHECKING:
    from convbench.backends.cpu.tiled_planner import TiledPlanner


def work(planner: TiledPlanner) -> Work:
    """Both transforms, the product and the inverse, from the shapes of the matrix products."""
    if planner.case.conv_pass is ConvPass.WGRAD:
        return Work((
            _tiles_phase(planner, "transform x", inverse=False),
            _tiles_phase(planner, "transform dy", inverse=True),
            _product(planner),
            _filter_phase(planner, "inverse dw"),
        ))  # fmt: skip
    source, result = ("x", "y") if planner.case.conv_pass is ConvPass.FPROP else ("dy", "dx")
    return Work((
        _tiles_phase(planner, f"transform {source}", inverse=False),
        _filter_phase(planner, "transform w"),
        _product(planner),
        _tiles_phase(planner, f"inverse {result}", inverse=True, flops=epilogue_flops(planner.case)),
    ))  # fmt: skip


def _tiles_phase(planner: TiledPlanner, name: str, *, inverse: bool, flops: int = 0) -> Phase:
    """The copy from or to the tensor, the one between strip and tiles, and the products between."""
    channels = planner.channels[inverse]
    images = planner.case.problem.batch * planner.residues
    chunks = planner.residues * pieces(planner.case.problem.batch, planner.extent[0])
    macs = moved = launches = 0
    for cut, count in planner.shapes.items():
        tiles = math.prod(piece.tiles for piece in cut)
        lengths = [piece.outputs for piece in cut] if inverse else planner.lengths(cut)
        steps = planner.transform.inverse(lengths) if inverse else planner.transform.forward(lengths)
        macs += count * tiles * sum(step.macs for step in steps)
        copied = 2 * tiles * math.prod(lengths)
        if tiles > 1:
            copied += 2 * (tiles * math.prod(lengths) if inverse else strip_elements(cut))
        if planner.deepens and inverse == (planner.case.conv_pass is ConvPass.DGRAD):  # x is copied twice
            copied += 2 * (strip_of_outputs(cut) if inverse else strip_elements(cut))
        moved += count * (copied + tiles * sum(step.moved for step in steps))
        launches += count * (1 + (tiles > 1) + len(steps))
    half = images * moved * channels * planner.case.dtype.itemsize // 2
    footprint = 2 * planner.buffer * planner.case.dtype.itemsize
    return Phase(name=name, flops=2 * images * macs * channels + flops, bytes_read=half, bytes_written=half,
                 footprint_bytes=footprint, launches=launches * chunks)  # fmt: skip


def _filter_phase(planner: TiledPlanner, name: str) -> Phase:
    steps, size = planner.transform.filter(), planner.case.dtype.itemsize
    taps = math.prod(tile.r for tile in planner.transform.tiles)
    half = planner.filters * (2 * taps + sum(step.moved for step in steps)) * size // 2
    footprint = planner.block_elements * (planner.filter_elements + planner.points) // planner.filter_elements * size
    return Phase(name=name, flops=2 * planner.filters * sum(step.macs for step in steps), bytes_read=half,
                 bytes_written=half, footprint_bytes=footprint,
                 launches=(1 + len(steps)) * len(planner.blocks))  # fmt: skip


def _product(planner: TiledPlanner) -> Phase:
    """One matrix product per point and chunk; wgrad adds those of later chunks, and the sums of the threads."""
    read, written = planner.channels
    size = planner.case.dtype.itemsize
    filters = planner.points * planner.filters
    macs = filters * planner.tiles
    wgrad = planner.case.conv_pass is ConvPass.WGRAD
    sums = max(0, planner.chunks - 1) if wgrad else 0
    inward, outward = planner.tiles * read * planner.points, planner.tiles * written * planner.points
    if wgrad:
        elements_read, elements_written = inward + outward + 2 * sums * filters, (planner.chunks + sums) * filters
    else:
        elements_read, elements_written = inward + planner.chunks * filters, outward
    calls = pieces(planner.points, planner.added_points) if wgrad else 1
    footprint = planner.points * math.prod(planner.extent) * (read + written) + filters
    return Phase(name="product", flops=2 * macs + sums * filters, bytes_read=elements_read * size,
                 bytes_written=elements_written * size, footprint_bytes=footprint * size,
                 launches=calls * (planner.chunks + sums))  # fmt: skip
