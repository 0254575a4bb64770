"""Filters of an algorithm on transformed tiles: their buffers, their transform, and its transpose."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.backends import ErrorBound
from convbench.backends.cpu.chains import chain, slots, wide_product
from convbench.backends.cpu.plans import CpuPlan
from convbench.backends.cpu.tiled_planner import Block, TiledPlanner
from convbench.backends.cpu.transforms import Winograd, transposed
from convbench.operands import index
from convbench.problem import Case, ConvPass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from convbench.backends import PlanOptions
    from convbench.backends.cpu.transforms import Step
    from convbench.operands import Operands


class TiledFilters(CpuPlan):
    """The buffers of a plan, and transformed filters (points, groups, rows, columns), see TiledPlanner.filter_shape."""

    def __init__(self, case: Case, operands: Operands, options: PlanOptions, family: str) -> None:
        self.planner = planner = TiledPlanner(case, family, options.threads)
        super().__init__(case, operands, planner.work(), planner.workspace_bytes, options)
        self.algorithm, self.accuracy = planner.algorithm, planner.accuracy
        transform = planner.transform
        # Products mix the inputs of a tile, so its errors follow their norm and not the single output's own products;
        # verification takes the largest output of the plane, or the norm over the plane if a tile is no larger.
        growth = transform.growth if isinstance(transform, Winograd) else max(1.0, math.log2(planner.points))
        self.error_bound = ErrorBound(growth=growth, transform_points=planner.points)
        dtype = self._stored.dtype
        found = [transform.matrices(axis) for axis in range(len(planner.axes))]
        self._forward, self._filter, self._inverse = (
            [np.ascontiguousarray(each[which], dtype) for each in found] for which in range(3)
        )
        self._boxes = planner.boxes()

        def touched(*shape: int) -> NDArray[Any]:
            return np.full(shape, 0.0, dtype)  # np.zeros would leave the first touch to the first run

        wgrad = case.conv_pass is ConvPass.WGRAD
        groups, (rows, columns) = case.problem.groups, planner.filter_shape
        each = range(planner.workers)

        def filters(points: int) -> NDArray[Any]:
            slots = touched(points, planner.filter_slot)[:, : planner.filters]
            return np.reshape(slots, (points, groups, rows, columns), copy=False)

        self._transformed = [filters(planner.points) for _ in (each if wgrad else range(1))]
        self._products = [filters(planner.added_points) for _ in (each if wgrad else ())]
        self._buffers = [[touched(planner.buffer) for _ in range(planner.buffers)] for _ in each]
        self._taps = [[touched(planner.block_elements) for _ in range(2)] for _ in each]

    def _transform_filter(self, part: Block, worker: int) -> None:
        self.laps.begin()
        data, spare = self._taps[worker]
        block = self._block(data, part)
        block.fill(0)
        for source, target in self._filter_parts(block, part):
            target[...] = source
        steps = self.planner.transform.filter()
        target = self._rows(part)
        slot = self.planner.slot(target[0].size)
        data, _ = chain(self._filter, steps[:-1], data, spare, slot)
        if steps:
            self._last(steps[-1], data, target, inverse=False)
        else:
            target[...] = slots(data, target.shape, slot)
        self.laps.end("transform w")

    def _inverse_filter(self, part: Block, worker: int) -> None:
        self.laps.begin()
        data, spare = self._taps[worker]
        source = self._rows(part)
        steps = self.planner.transform.filter()
        slot = self.planner.slot(source[0].size)
        if steps:
            self._last(steps[-1], data, source, inverse=True)
            matrices = [matrix.T for matrix in self._filter]
            data, spare = chain(matrices, transposed(steps[:-1]), data, spare, slot)
        else:
            slots(data, source.shape, slot)[...] = source
        for target, place in self._filter_parts(self._block(data, part), part):
            target[...] = place
        self.laps.end("inverse dw")

    def _rows(self, part: Block) -> NDArray[Any]:
        """The transformed filters of a block: (points, rows, columns)."""
        filters = self._transformed[0]
        rows = np.reshape(filters, (len(filters), -1, filters.shape[3]), copy=False)
        return rows[:, part.first : part.first + part.rows]

    def _last(self, step: Step, data: NDArray[Any], rows: NDArray[Any], *, inverse: bool) -> None:
        """The last step, between a block (before, columns, after, rest) and (before, rows, after, some rows of many).

        The latter lie apart, so it is one product per place on the other axes.
        """
        rest = rows[0].size
        shape = (step.before, step.columns, step.after, rest)
        block = slots(data, shape, self.planner.slot(rest), clear=True).swapaxes(1, 2)
        spectrum = np.reshape(rows, (step.before, step.rows, step.after, rest), copy=False).swapaxes(1, 2)
        matrix = self._filter[step.axis]
        for source, target in zip(spectrum, block, strict=True) if inverse else zip(block, spectrum, strict=True):
            wide_product(matrix.T if inverse else matrix, source, target)

    def _block(self, data: NDArray[Any], part: Block) -> NDArray[Any]:
        """A buffer as filters of a block, taps first: (…, groups, phases, c, k), in dgrad (…, groups, k, phases, c)."""
        p = self.case.problem
        taps = [tile.r for tile in self.planner.transform.tiles]
        groups, phases, channels = (piece.stop - piece.start for piece in part[:3])
        if self.case.conv_pass is ConvPass.FPROP:
            shape = (*taps, groups, phases, channels, p.out_channels // p.groups)
        else:
            shape = (*taps, groups, channels, self.planner.phases, p.in_channels // p.groups)
        return slots(data, shape, self.planner.slot(part.rows * self.planner.filter_shape[1]), clear=True)

    def _filter_parts(self, block: NDArray[Any], part: Block) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Per phase: filters of w, taps first, flipped in dgrad; and their places in a block."""
        splits, fprop = self.planner.splits, self.case.conv_pass is ConvPass.FPROP
        flip = -1 if self.case.conv_pass is ConvPass.DGRAD else 1
        phases = list(itertools.product(*(range(split.phases) for split in splits)))
        for place, each in enumerate(phases[part.phases] if fprop else phases):
            taps = [split.w(phase) for split, phase in zip(splits, each, strict=True)]
            where = (slice(None), part.channels) if fprop else (part.channels, slice(None))
            w = self.w[index(part.groups, *where, *taps)]
            # The taps of a shorter phase come first; flipped, they come last.
            kept = tuple(slice(0, count) if flip > 0 else slice(tile.r - count, None)
                         for tile, count in zip(self.planner.transform.tiles, w.shape[3:], strict=True))  # fmt: skip
            w = w[index(slice(None), slice(None), slice(None), *[slice(None, None, flip)] * len(taps))]
            order = (-3, -1, -2) if fprop else (-3, -2, -1)
            yield np.moveaxis(w, (0, 1, 2), order), (block[..., place, :, :] if fprop else block[..., place, :])[kept]
