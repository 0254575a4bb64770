"""`gemm` and `mec`: convolution as matrix products over gathered windows, in chunks of bounded size."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.backends.cpu.chains import blocked_product
from convbench.backends.cpu.gather import Gather, Windows, as_matrix, matrix_shape, points_last
from convbench.backends.cpu.gemm_planner import GemmPlanner
from convbench.backends.cpu.plans import CpuPlan, touched
from convbench.backends.cpu.threads import blas_threads, spread
from convbench.operands import index
from convbench.problem import Case, ConvPass, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.backends import PlanOptions
    from convbench.backends.cpu.windows import Chunked
    from convbench.operands import Operands

Item = tuple[int, slice, tuple[slice, ...]]
"""A chunk: number of its correlation, images, outputs."""


class GemmPlan(CpuPlan):
    """Per chunk: windows (G, batch…, rows, points), filter (G, written, rows), results (G, batch…, written, points).

    The rows are (channels read, taps) in the order that the filter has in memory.
    """

    planner_class = GemmPlanner

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        self.planner = planner = self.planner_class(case, options.threads)
        super().__init__(case, operands, planner.work(), planner.workspace_bytes, options)
        self.algorithm = planner.algorithm
        self.form = planner.form
        dgrad = case.conv_pass is ConvPass.DGRAD and not planner.scatters
        self._source = self.y if dgrad else self.x
        self._items: list[Item] = [
            (place, n, outputs) for place, part in enumerate(planner.parts) for n, outputs in part.boxes()
        ]
        self._workers = [_Worker(self) for _ in range(planner.workers)]
        self._filters: list[list[NDArray[Any]]] = []
        self._arranged: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for part in planner.parts:
            views = self._filter_views(part)
            self._filters.append(self._arrange(views) if planner.arranged else [_merged(view) for view in views])
        others = self._workers[1:] if case.conv_pass is ConvPass.WGRAD else []
        self._sums = [self._filters] + [
            [[_like(f, touched((f.size,), f.dtype)) for f in filters] for filters in self._filters] for _ in others
        ]
        """Of wgrad: what each worker adds to."""
        self._incomplete = sum(math.prod(w.outputs for w in part) for part in planner.correlations) < math.prod(
            case.problem.input_size
        )

    def _filter_views(self, part: Chunked) -> list[NDArray[Any]]:
        """Of each outer tap the filter as (G, written, rows…)."""
        w = self.w[index(..., *(window.tap_slice for window in part.windows))]
        if self.case.conv_pass is ConvPass.DGRAD and not self.planner.scatters:
            w = w.swapaxes(1, 2)
        taps = [w[index(slice(None), slice(None), slice(None), *tap)] for tap in part.outer_taps]
        return [np.moveaxis(tap, 2, -1) if self.form.taps_first else tap for tap in taps]

    def _arrange(self, views: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Buffers (G, written, rows) for the views, in the order of axes that is copied fastest."""
        buffers = []
        for view in views:
            rows = math.prod(view.shape[2:])
            if self.planner.rows_first:
                buffer = touched((view.shape[0], rows, view.shape[1]), view.dtype).swapaxes(1, 2)
                seen = np.moveaxis(buffer.swapaxes(1, 2).reshape(view.shape[0], *view.shape[2:], view.shape[1]), -1, 1)
            else:
                buffer = touched((*view.shape[:2], rows), view.dtype)
                seen = buffer.reshape(view.shape)
            self._arranged.append((seen, view))
            buffers.append(buffer)
        return buffers

    def run(self) -> None:
        """Writes y, dx or dw."""
        planner = self.planner
        with blas_threads(self.threads if planner.blas else 1):
            if self.case.conv_pass is ConvPass.WGRAD:
                self._wgrad()
                return
            if self.case.conv_pass is ConvPass.DGRAD and (planner.scatters or self._incomplete):
                self._stored.fill(0)
            self.laps.begin()
            for buffer, view in self._arranged:
                buffer[...] = view
            self.lap("gather")
            if planner.scatters:
                images = [list(items) for _, items in itertools.groupby(self._items, key=lambda item: item[1].start)]
                spread(images if planner.workers > 1 else [self._items], planner.workers, self._scatter)
            else:
                spread(self._items, planner.workers, self._correlate)

    def _correlate(self, item: Item, worker: int) -> None:
        """A chunk of fprop, or of dgrad by windows of dy."""
        self.laps.begin()
        place, n, outputs = item
        own, part = self._workers[worker], self.planner.parts[place]
        places = [w.places(o) for w, o in zip(part.windows, outputs, strict=True)]
        target = self.x if self.case.conv_pass is ConvPass.DGRAD else self.y
        block = target[index(n, ..., *places)]
        direct = self.planner.direct(part)
        moved = points_last(block, self.form)
        shape = matrix_shape(moved, self.form)
        out = as_matrix(block, self.form) if direct else self.buffer(own.copied, shape)
        lead = (slice(None), *[None] * self.form.batch)
        matrices = own.gathers[place].matrices(n, outputs)
        self.lap("gather")
        for tap, w, windows in zip(part.outer_taps, self._filters[place], matrices, strict=True):
            points = self._clip(part, tap, n, outputs)
            if not any(tap):
                if out[points].size < out.size:
                    out.fill(0)
                self._multiply(w[lead], windows[points], out[points])
            elif out[points].size:
                product = self.buffer(own.added, out[points].shape)
                np.add(out[points], np.matmul(w[lead], windows[points], out=product), out=out[points])
        if self.bias is not None:
            self.finish(out, self.bias[(*lead, slice(None), None)])
        self.lap("product")
        if not direct:
            moved[...] = out.reshape(moved.shape)
            self.lap("gather")

    def _multiply(self, w: NDArray[Any], windows: NDArray[Any], out: NDArray[Any]) -> None:
        """Out (G, batch…, written, points) of filter (G, batch…, written, rows) and windows (…, rows, points)."""
        if self.planner.by_blocks:
            blocked_product(windows.swapaxes(1, 2), w.swapaxes(1, 2), out.swapaxes(1, 2))
        else:
            np.matmul(w, windows, out=out)

    def _clip(self, part: Chunked, tap: tuple[int, ...], n: slice, outputs: tuple[slice, ...]) -> tuple[Any, ...]:
        """An index of matrices (G, batch…, rows, points): the outputs for which an outer tap meets no padding."""
        if not part.outer:
            return (...,)
        *batch, rows = part.clip(tap, outputs)
        width = math.prod(o.stop - o.start for o in outputs[part.outer :])  # points of a row
        if self.form.images_first:
            batch = [slice(None), *batch]
        else:
            width *= n.stop - n.start
        return index(slice(None), *batch, slice(None), slice(rows.start * width, rows.stop * width))

    def _wgrad(self) -> None:
        spread(self._items, self.planner.workers, self._add_gradient)
        (filters,) = self._sums[0]
        if not self._items:
            self._stored.fill(0)
            return
        self.laps.begin()
        for (others,) in self._sums[1:]:
            for total, other in zip(filters, others, strict=True):
                np.add(total, other, out=total)
        self.lap("product")
        for buffer, view in self._arranged:
            view[...] = buffer
        self.lap("gather")

    def _add_gradient(self, item: Item, worker: int) -> None:
        """Adds a chunk's part of dw to the sums of a worker."""
        self.laps.begin()
        _, n, outputs = item
        own = self._workers[worker]
        dy = self._dy(own, n, outputs)
        fresh = item is self._items[worker]
        part = self.planner.parts[0]
        matrices = own.gathers[0].matrices(n, outputs)
        self.lap("gather")
        for tap, total, windows in zip(part.outer_taps, self._sums[worker][0], matrices, strict=True):
            points = self._clip(part, tap, n, outputs)
            a, b = dy[points], windows[points].swapaxes(-1, -2)
            places = list(np.ndindex(a.shape[1:-2]))
            if fresh and not places:
                total.fill(0)
            for number, place in enumerate(places):
                one = (slice(None), *place)
                if fresh and not number:
                    np.matmul(a[one], b[one], out=total)
                else:
                    np.add(total, np.matmul(a[one], b[one], out=_like(total, own.added)), out=total)
        self.lap("product")

    def _dy(self, own: _Worker, n: slice, outputs: tuple[slice, ...]) -> NDArray[Any]:
        """A chunk of dy as (G, batch…, K/G, points): a view, or a copy."""
        block = self.y[index(n, ..., *outputs)]
        if self.planner.direct(self.planner.parts[0]):
            return as_matrix(block, self.form)
        moved = points_last(block, self.form)
        matrix = self.buffer(own.copied, matrix_shape(moved, self.form))
        matrix.reshape(moved.shape)[...] = moved  # through a view: it splits one axis
        return matrix

    def _scatter(self, items: list[Item], worker: int) -> None:
        """Chunks of dgrad by products of dy, added to dx."""
        for _, n, outputs in items:
            self._add_scattered(n, outputs, worker)

    def _add_scattered(self, n: slice, outputs: tuple[slice, ...], worker: int) -> None:
        """A chunk of dgrad by products of dy, added to dx tap by tap."""
        self.laps.begin()
        own, part = self._workers[worker], self.planner.parts[0]
        gather = own.gathers[0]
        windows, (target,) = gather.places(n, outputs)
        dy = self._dy(own, n, outputs)
        self.lap("scatter")
        np.matmul(self._filters[0][0].swapaxes(1, 2), dy, out=target)
        self.lap("product")
        spatial = [w.under(o) for w, o in zip(part.windows, outputs, strict=True)]
        under = self.x[index(n, ..., *(where for _, _, where in spatial))]
        block = under
        if self.planner.strips:
            block, _ = gather.windows.over_strip(n, outputs)
            block.fill(0)
        every = [slice(None)] * part.ndim
        for tap in itertools.product(*(range(w.taps) for w in part.windows)):
            where = [
                slice(r * w.dilation, r * w.dilation + (o.stop - o.start - 1) * w.stride + 1, w.stride)
                for r, w, o in zip(tap, part.windows, outputs, strict=True)
            ]
            block[index(..., *where)] += windows[index(slice(None), slice(None), slice(None), *tap, *every)]
        if self.planner.strips:
            under += block[index(..., *(inside for _, inside, _ in spatial))]
        self.lap("scatter")

    def buffer(self, flat: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The start of a buffer as matrices (G, batch…, channels, points), stored like the tensor's."""
        used = flat[: math.prod(shape)]
        if self.case.layout is Layout.NHWC:
            return used.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)
        return used.reshape(shape)

    def new_gathers(self, strip: NDArray[Any], buffer: NDArray[Any]) -> list[Gather]:
        """Gathers of all correlations through the same buffers."""
        planner = self.planner
        layout = Layout.NCHW if planner.turned else self.case.layout
        found = []
        for part in planner.parts:
            windows = Windows(self._source, part, layout, strip if planner.strips else None)
            residues = [
                (taps, Windows(self._source[..., read], residue, layout, strip))
                for taps, read, residue in (planner.residues(part) if planner.split else ())
            ]
            found.append(Gather(windows, self.form, None if planner.viewed else buffer, residues))
        return found


class _Worker:
    """The buffers of one worker."""

    def __init__(self, plan: GemmPlan) -> None:
        strip, gathered, self.copied, self.added = (touched((size,), plan.x.dtype) for size in plan.planner.buffers)
        self.gathers = plan.new_gathers(strip, gathered)


def _like(matrices: NDArray[Any], flat: NDArray[Any]) -> NDArray[Any]:
    """The start of a buffer as matrices (G, written, rows) that lie like others."""
    groups, written, rows = matrices.shape
    if matrices.strides[1] < matrices.strides[2]:
        return flat[: matrices.size].reshape(groups, rows, written).swapaxes(1, 2)
    return flat[: matrices.size].reshape(groups, written, rows)


def _merged(view: NDArray[Any]) -> NDArray[Any]:
    """A filter (G, written, rows…) as a view (G, written, rows)."""
    return np.reshape(view, (*view.shape[:2], math.prod(view.shape[2:])), copy=False)
