"""`depthwise`: convolution of each channel by its own filters, as sums of products over windows that stay in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.backends.cpu.depthwise_planner import DepthwisePlanner, reason
from convbench.backends.cpu.gather import Windows, block_order, counts_of
from convbench.backends.cpu.plans import CpuPlan, touched
from convbench.backends.cpu.threads import blas_threads, spread
from convbench.errors import UnsupportedError
from convbench.operands import index
from convbench.problem import Case, ConvPass, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.backends import PlanOptions
    from convbench.backends.cpu.windows import Chunked
    from convbench.operands import Operands

Item = tuple[int, slice, tuple[slice, ...]]
"""A chunk: number of its correlation, images, outputs."""


class DepthwisePlan(CpuPlan):
    """Windows (n, G, c, taps…, points…), filter (G, written, read, taps…, outputs of a row), sums as the tensor."""

    algorithm = "depthwise"

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        if why := reason(case):
            raise UnsupportedError(why)
        self.planner = planner = DepthwisePlanner(case, options.threads)
        super().__init__(case, operands, planner.work(), planner.workspace_bytes, options)
        self._axes = _Axes(case, planner)
        self._items: list[Item] = [
            (place, n, outputs) for place, part in enumerate(planner.parts) for n, outputs in part.boxes()
        ]
        dtype = self._stored.dtype
        self._workers = []
        for _ in range(planner.workers):
            strip, held = (touched((size,), dtype) for size in planner.buffers)
            self._workers.append((self._windows(strip), held))
        self._sums = [[touched((size,), dtype) for size in planner.sums] for _ in self._workers]
        self._filters = [self._filter(part) for part in planner.parts]
        self._incomplete = sum(math.prod(w.outputs for w in part.windows) for part in planner.parts) < math.prod(
            case.problem.input_size
        )

    def _windows(self, strip: NDArray[Any]) -> list[Windows]:
        planner = self.planner
        source = self.y if self.case.conv_pass is ConvPass.DGRAD else self.x
        buffer = strip if planner.strips else None
        return [Windows(source, part, self.case.layout, buffer, planner.longer) for part in planner.parts]

    def _filter(self, part: Chunked) -> tuple[NDArray[Any], NDArray[Any]]:
        """Taps of a correlation (G, written, read, taps…, outputs), and the view of w that they are copied from."""
        w = self.w[index(..., *(window.tap_slice for window in part.windows))]
        if self.case.conv_pass is ConvPass.DGRAD:
            w = w.swapaxes(1, 2)
        view = w[..., None]
        if not self.planner.filters:
            return view, view
        order = (*range(3, w.ndim + 1), 0, 1, 2)  # (taps…, outputs, G, written, read): runs of a row of outputs
        shape = (*w.shape, part.outputs[-1] if self.planner.merged else 1)
        buffer = touched(tuple(shape[axis] for axis in order), w.dtype)
        return buffer.transpose(np.argsort(order)), view

    def run(self) -> None:
        """Writes y, dx or dw."""
        with blas_threads(1):
            if self.case.conv_pass is ConvPass.WGRAD:
                self._wgrad()
                return
            if self.case.conv_pass is ConvPass.DGRAD and self._incomplete:
                self._stored.fill(0)
            if self.planner.filters:
                self.laps.begin()
                for buffer, view in self._filters:
                    buffer[...] = view
                self.lap("copy")
            spread(self._items, self.planner.workers, self._correlate)

    def _correlate(self, item: Item, worker: int) -> None:
        self.laps.begin()
        place, n, outputs = item
        part = self.planner.parts[place]
        windows, held = self._workers[worker]
        places = [w.places(o) for w, o in zip(part.windows, outputs, strict=True)]
        target = self.x if self.case.conv_pass is ConvPass.DGRAD else self.y
        block = target[index(n, ..., *places)]
        out = block if self.planner.direct(part) else self._points(held, part, n, outputs)
        seen = windows[place].at(n, outputs)
        self.lap("copy")
        self._axes.multiply(seen, self._filters[place][0], out)
        used = out[..., : block.shape[-1]]
        if self.bias is not None:
            self.finish(used, self.bias.reshape(*self.bias.shape, *[1] * len(places)))
        self.lap("product")
        if not self.planner.direct(part):
            block[...] = used
            self.lap("copy")

    def _points(self, held: NDArray[Any], part: Chunked, n: slice, outputs: tuple[slice, ...]) -> NDArray[Any]:
        """A buffer for the points of a chunk, (n, G, channels, points…), that lie as in the tensor."""
        images, *counts = counts_of(n, outputs)
        counts[-1] += self.planner.reach(part)
        shape = (images, self.case.problem.groups, self.planner.channels[1], *counts)
        order = self._axes.memory
        stored = held[: math.prod(shape)].reshape([shape[axis] for axis in order])
        return stored.transpose(np.argsort(order))

    def _wgrad(self) -> None:
        if not self._items:
            self._stored.fill(0)
            return
        spread(self._items, self.planner.workers, self._add_gradient)
        self.laps.begin()
        first, *others = (sums[1] for sums in self._sums)
        for other in others:
            first += other
        self.w[...] = first.reshape(self.w.shape)
        self.lap("product")

    def _add_gradient(self, item: Item, worker: int) -> None:
        self.laps.begin()
        _, n, outputs = item
        part = self.planner.parts[0]
        (windows, held), (chunk, total) = self._workers[worker], self._sums[worker]
        dy = self.y[index(n, ..., *outputs)]
        if not self.planner.direct(part):
            points = self._points(held, part, n, outputs)
            points[..., dy.shape[-1] :] = 0
            points[..., : dy.shape[-1]] = dy
            dy = points
        shape = self.w.shape
        seen = windows[0].at(n, outputs)
        self.lap("copy")
        found = self._axes.reduce(seen, dy, chunk, shape)
        if item is self._items[worker]:
            total.reshape(shape)[...] = found
        else:
            total.reshape(shape)[...] += found
        self.lap("product")


class _Axes:
    """Labels of axes for einsum, in the order that makes it run along what is contiguous.

    Windows are (n, G, c, taps…, points…). einsum takes the axes of its result in the order given (the first fastest
    with order F, the last with C), then those it sums over, by rising label; with order K by their strides.
    """

    def __init__(self, case: Case, planner: DepthwisePlanner) -> None:
        ndim = case.problem.ndim
        self.planner = planner
        self.taps, self.points = list(range(ndim)), list(range(ndim + 1, 2 * ndim + 1))
        self.image = ndim if case.layout is not Layout.CHWN else 2 * ndim + 1
        self.group, self.read, self.written = range(2 * ndim + 2, 2 * ndim + 5)
        self.windows = [self.image, self.group, self.read, *self.taps, *self.points]
        self.memory = block_order(case.layout, ndim)

    def multiply(self, windows: NDArray[Any], w: NDArray[Any], out: NDArray[Any]) -> None:
        """Out (n, G, written, points…): products of windows and filter (G, written, read, taps…, outputs), summed."""
        if self.planner.merged:
            row = w[..., : out.shape[-1]]
            row = np.reshape(np.moveaxis(row[:, 0, 0], 0, -1), (*row.shape[3:-1], -1), copy=False)
            axes = [self.image, *self.points]
            np.einsum(_rows(windows), [self.image, *self.taps, *self.points], row, [*self.taps, self.points[-1]],
                      axes, out=_rows(out))  # fmt: skip
            return
        labels = [self.image, self.group, self.written, *self.points]
        order = self.memory if self.planner.nhwc else self.memory[::-1]
        np.einsum(windows, self.windows, w[..., 0], [self.group, self.written, self.read, *self.taps],
                  [labels[axis] for axis in order], out=out.transpose(order),
                  order="K" if self.planner.nhwc else "F")  # fmt: skip

    def reduce(
        self, windows: NDArray[Any], dy: NDArray[Any], chunk: NDArray[Any], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """The part of dw (G, K/G, C/G, taps…) that a chunk gives, in the flat buffer `chunk`."""
        ndim, taps = len(self.taps), shape[3:]
        if self.planner.merged:
            length = dy.shape[-1] * shape[0]
            count = math.prod(taps)
            out = chunk[: count * length].reshape(*taps, length)
            np.einsum(_rows(windows), [self.image, *self.taps, *self.points], _rows(dy), [self.image, *self.points],
                      [*self.taps, self.points[-1]], out=out)  # fmt: skip
            rest = chunk[out.size :][: count * shape[0]].reshape(*taps, shape[0])
            np.sum(out.reshape(*taps, -1, shape[0]), axis=ndim, out=rest)
            return np.moveaxis(rest, -1, 0)[:, None, None]
        own = [self.group, self.written, self.read, *self.taps]
        order = [*range(3, ndim + 3), 0, 1, 2] if self.planner.nhwc else list(range(ndim + 3))
        out = chunk[: math.prod(shape)].reshape([shape[axis] for axis in order])
        np.einsum(windows, self.windows, dy, [self.image, self.group, self.written, *self.points],
                  [own[axis] for axis in order], out=out, order="K" if self.planner.nhwc else "C")  # fmt: skip
        return out.transpose(np.argsort(order))


def _rows(block: NDArray[Any]) -> NDArray[Any]:
    """(n, G, 1, …, outputs) as a view (n, …, outputs·G)."""
    moved = np.moveaxis(block[:, :, 0], 1, -1)
    return np.reshape(moved, (*moved.shape[:-2], moved.shape[-2] * moved.shape[-1]), copy=False)
