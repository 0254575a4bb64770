"""`gemm`: convolution as matrix products over gathered windows (im2col), in chunks of bounded size."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convbench.backends.cpu.planner import GemmPlanner
from convbench.backends.cpu.plans import CpuPlan
from convbench.operands import index
from convbench.problem import Case, ConvPass, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.backends import PlanOptions
    from convbench.operands import Operands


class GemmPlan(CpuPlan):
    """Per chunk of output points: W (G, K/G, C/G·taps), gathered windows (G, C/G·taps, points), Y (G, K/G, points).

    The matrices keep the order of the tensors in memory, so that as many as possible are views:
    nchw gathers (c, taps, n, outputs), chwn (c, taps, outputs, n), nhwc (n, outputs, taps, c) and uses it transposed.
    """

    algorithm = "gemm"

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        self.planner = planner = GemmPlanner(case)
        super().__init__(case, operands, planner.work(), planner.workspace_bytes, options)
        p = case.problem
        dtype = self._stored.dtype
        self.pixels_first = case.layout is Layout.NHWC
        self._w = self._filter_matrix()
        points = math.prod(planner.box)
        taps = math.prod(p.filter_size)
        channels = p.in_channels // p.groups
        self._strip: NDArray[Any] | None = None
        if planner.padded:
            batch, *sizes = planner.strip
            order = case.layout.order(p.ndim)
            shape = (batch, p.in_channels, *sizes)
            stored = np.zeros([shape[axis] for axis in order], dtype)
            canonical = stored.transpose(np.argsort(order))
            self._strip = canonical.reshape(batch, p.groups, channels, *sizes)  # a view: it splits one axis
        self._gathered = np.zeros(points * p.in_channels * taps, dtype)
        self._product = np.zeros(points * p.out_channels, dtype)
        self._dw = np.zeros(self._w.shape, dtype) if case.conv_pass is ConvPass.WGRAD else None

    def _filter_matrix(self) -> NDArray[Any]:
        """The filter, or its gradient, as a view (G, K/G, C/G·taps); nhwc orders its columns (taps, c)."""
        w = np.moveaxis(self.w, 2, -1) if self.pixels_first else self.w
        return np.reshape(w, _matrix_shape(w), copy=False)

    def run(self) -> None:
        """Writes y, dx or dw, chunk by chunk."""
        if self.case.conv_pass is not ConvPass.FPROP:
            self._stored.fill(0)  # chunks add to it
        ranges = [range(0, extent, size) for extent, size in zip(self.planner.points, self.planner.box, strict=True)]
        for starts in itertools.product(*ranges):
            box = [
                slice(start, min(start + size, extent))
                for start, size, extent in zip(starts, self.planner.box, self.planner.points, strict=True)
            ]
            n, outputs = (box[0], box[1:]) if self.planner.images_first else (box[-1], box[:-1])
            if self.case.conv_pass is ConvPass.FPROP:
                self._fprop(n, outputs)
            elif self.case.conv_pass is ConvPass.DGRAD:
                self._dgrad(n, outputs)
            else:
                self._wgrad(n, outputs)

    def _fprop(self, n: slice, outputs: list[slice]) -> None:
        y = self._points_last(self.y[index(n, ..., *outputs)])
        windows = self._gather(n, outputs)
        view = _as_matrix(y)
        target = self._buffer(self._product, _matrix_shape(y)) if view is None else view
        np.matmul(self._w, windows, out=target)
        if self.bias is not None:
            self.finish(target, self.bias[:, :, None])
        if view is None:
            y[...] = target.reshape(y.shape)

    def _dgrad(self, n: slice, outputs: list[slice]) -> None:
        dy = self._dy_matrix(n, outputs)
        p = self.case.problem
        shape = (p.groups, self._w.shape[2], dy.shape[2])
        if self.planner.pointwise:
            dx = self._points_last(self.x[index(n, ..., *outputs)])
            target = _as_matrix(dx)
            if target is not None:
                np.matmul(self._w.swapaxes(1, 2), dy, out=target)
            else:
                product = np.matmul(self._w.swapaxes(1, 2), dy, out=self._buffer(self._gathered, shape))
                dx[...] = product.reshape(dx.shape)
            return
        product = np.matmul(self._w.swapaxes(1, 2), dy, out=self._buffer(self._gathered, shape))
        windows = self._window_view(product, n, outputs)  # (n, g, c, taps…, outputs…)
        under, inside, source = self._under(n, outputs)
        if self._strip is not None:
            under.fill(0)
        spatial = [slice(None)] * p.ndim
        for tap in itertools.product(*map(range, p.filter_size)):
            places = [
                slice(r * a.dilation, r * a.dilation + (o.stop - o.start - 1) * a.stride + 1, a.stride)
                for r, a, o in zip(tap, p.axes, outputs, strict=True)
            ]
            under[index(..., *places)] += windows[index(slice(None), slice(None), slice(None), *tap, *spatial)]
        if self._strip is not None:
            self.x[index(n, ..., *source)] += under[index(..., *inside)]

    def _wgrad(self, n: slice, outputs: list[slice]) -> None:
        windows = self._gather(n, outputs)
        self._w += np.matmul(self._dy_matrix(n, outputs), windows.swapaxes(1, 2), out=self._dw)

    def _dy_matrix(self, n: slice, outputs: list[slice]) -> NDArray[Any]:
        """A chunk of dy as (G, K/G, points): a view where it lies that way, else a copy."""
        dy = self._points_last(self.y[index(n, ..., *outputs)])
        matrix = _as_matrix(dy)
        if matrix is None:
            matrix = self._buffer(self._product, _matrix_shape(dy))
            matrix.reshape(dy.shape)[...] = dy  # through a view: this splits one axis
        return matrix

    def _points_last(self, block: NDArray[Any]) -> NDArray[Any]:
        """(n, G, channels, spatial…) as (G, channels, points…), the points in memory order."""
        return np.moveaxis(block, 0, 2 if self.planner.images_first else -1)

    def _buffer(self, flat: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The start of a buffer as a (G, rows, points) matrix, stored points-first in nhwc."""
        used = flat[: math.prod(shape)]
        if self.pixels_first:
            return used.reshape(shape[0], shape[2], shape[1]).swapaxes(1, 2)
        return used.reshape(shape)

    def _under(self, n: slice, outputs: list[slice]) -> tuple[NDArray[Any], list[slice], list[slice]]:
        """What the windows of a chunk lie on, the part of it that is inside the input, and that part of the input.

        A strip of the padded input, or without padding the input itself.
        """
        sizes, inside, source = [], [], []
        for axis, o in zip(self.case.problem.axes, outputs, strict=True):
            size = (o.stop - o.start - 1) * axis.stride + axis.reach + 1
            start = o.start * axis.stride - axis.before
            first, stop = min(max(0, -start), size), max(0, min(size, axis.input - start))
            sizes.append(slice(0, size))
            inside.append(slice(first, max(first, stop)))
            source.append(slice(start + first, start + max(first, stop)))
        if self._strip is None:
            return self.x[index(n, ..., *source)], inside, source
        return self._strip[index(slice(0, n.stop - n.start), ..., *sizes)], inside, source

    def _gather(self, n: slice, outputs: list[slice]) -> NDArray[Any]:
        """The windows of a chunk as (G, C/G·taps, points)."""
        if self.planner.pointwise:
            windows = self._points_last(self.x[index(n, ..., *outputs)])
            matrix = _as_matrix(windows)
            if matrix is None:
                matrix = self._buffer(self._gathered, _matrix_shape(windows))
                matrix.reshape(windows.shape)[...] = windows
            return matrix
        p = self.case.problem
        under, inside, source = self._under(n, outputs)
        if self._strip is not None:
            under.fill(0)
            under[index(..., *inside)] = self.x[index(n, ..., *source)]
        counts = [o.stop - o.start for o in outputs]
        steps = under.strides
        view = as_strided(  # (n, g, c, taps…, outputs…)
            under,
            shape=(*under.shape[:3], *p.filter_size, *counts),
            strides=(
                *steps[:3],
                *(s * a.dilation for s, a in zip(steps[3:], p.axes, strict=True)),
                *(s * a.stride for s, a in zip(steps[3:], p.axes, strict=True)),
            ),
            writeable=False,
        )
        points = under.shape[0] * math.prod(counts)
        matrix = self._buffer(self._gathered, (p.groups, self._w.shape[2], points))
        self._window_view(matrix, n, outputs)[...] = view
        return matrix

    def _window_view(self, matrix: NDArray[Any], n: slice, outputs: list[slice]) -> NDArray[Any]:
        """A gathered matrix seen as (n, g, c, taps…, outputs…)."""
        p = self.case.problem
        images, counts = n.stop - n.start, [o.stop - o.start for o in outputs]
        channels, taps = p.in_channels // p.groups, p.filter_size
        if self.pixels_first:  # stored (g, n, outputs…, taps…, c)
            stored = matrix.swapaxes(1, 2).reshape(p.groups, images, *counts, *taps, channels)
            outer = range(2, 2 + p.ndim)
            inner = range(2 + p.ndim, 2 + 2 * p.ndim)
            return stored.transpose(1, 0, stored.ndim - 1, *inner, *outer)
        if self.planner.images_first:  # stored (g, c, taps…, n, outputs…)
            return np.moveaxis(matrix.reshape(p.groups, channels, *taps, images, *counts), 2 + p.ndim, 0)
        return np.moveaxis(matrix.reshape(p.groups, channels, *taps, *counts, images), -1, 0)


def _matrix_shape(block: NDArray[Any]) -> tuple[int, int, int]:
    """(G, channels, points) of a block (G, channels, points…)."""
    return block.shape[0], block.shape[1], math.prod(block.shape[2:])


def _as_matrix(block: NDArray[Any]) -> NDArray[Any] | None:
    """A view (G, channels, points) of a block (G, channels, points…), or None where only a copy has that shape."""
    try:
        return np.reshape(block, _matrix_shape(block), copy=False)
    except ValueError:
        return None
