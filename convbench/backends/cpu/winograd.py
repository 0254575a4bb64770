"""`winograd`: Winograd's algorithm in one to three dimensions, as products with small matrices over tiles."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convbench.backends import ErrorBound
from convbench.backends.cpu.bilinear import winograd
from convbench.backends.cpu.fft import blas, pool
from convbench.backends.cpu.plans import CpuPlan
from convbench.backends.cpu.tiling import WinogradPlanner, reason
from convbench.operands import index
from convbench.problem import Case, ConvPass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from convbench.backends import PlanOptions
    from convbench.backends.cpu.bilinear import Matrix
    from convbench.operands import Operands

__all__ = ["WinogradPlan", "WinogradPlanner", "reason"]


class WinogradPlan(CpuPlan):
    """Points come first, then tiles, then channels, so that the product is one matrix product per point.

    A chunk is a box of images and tiles: its inputs are copied to a strip (image, spatial…, channel) with zeros for
    padding, and from there to tiles (tile…, image, tiles…, channel). Other layouts are turned on the way to the strip.
    """

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        self.planner = planner = WinogradPlanner(case, options.threads)
        super().__init__(case, operands, planner.work(), planner.workspace_bytes, options)
        self.algorithm = planner.algorithm
        # Products mix the inputs of a tile, so its errors follow their norm and not the single output's own products;
        # verification takes the largest output of the plane, or the norm over the plane if a tile is no larger.
        self.error_bound = ErrorBound(growth=planner.growth, transform_points=planner.points)
        dtype = self._stored.dtype

        def matrix(exact: Matrix) -> NDArray[Any]:
            return np.array([[float(v) for v in row] for row in exact], dtype)

        found = [winograd(axis.m, axis.taps) for axis in planner.axes]
        self._bt = [matrix(f.bt) if a.m > 1 and a.taps > 1 else None for f, a in zip(found, planner.axes, strict=True)]
        self._at = [matrix(f.at) if a.taps > 1 else None for f, a in zip(found, planner.axes, strict=True)]
        self._g = functools.reduce(np.kron, [matrix(f.g) for f in found])
        w = self.w[0]
        if case.conv_pass is ConvPass.DGRAD:
            w = np.flip(w.swapaxes(0, 1), axis=tuple(range(2, w.ndim)))
        self._taps = np.moveaxis(w, (1, 0), (-2, -1))  # (taps…, channels read, channels written)

        def touched(*shape: int) -> NDArray[Any]:
            return np.full(shape, 0.0, dtype)  # np.zeros would leave the first touch to the first run

        read, written = planner.channels
        wgrad = case.conv_pass is ConvPass.WGRAD
        each = range(planner.workers)
        self._filters = [touched(planner.points, read, written) for _ in (each if wgrad else range(1))]
        self._products = [touched(planner.added_points, read, written) for _ in (each if wgrad else ())]
        self._buffers = [[touched(planner.buffer) for _ in range(planner.buffers)] for _ in each]
        self._blocks = [touched(planner.taps * planner.block * written) for _ in each]

    def run(self) -> None:
        """Writes y, dx or dw."""
        planner = self.planner
        blocks = _slices(planner.channels[0], planner.block)
        ranges = [_slices(extent, size) for extent, size in zip(planner.tiles, planner.box, strict=True)]
        boxes = list(itertools.product(*ranges))
        with blas().limit(limits=1, user_api="blas"):  # the threads are ours: copies take as long as products
            if self.case.conv_pass is ConvPass.WGRAD:
                self._spread(boxes, self._gradient_of_tiles)
                if not boxes:
                    self._filters[0].fill(0)
                for other in self._filters[1:]:
                    self._filters[0] += other
                self._spread(blocks, self._inverse_filter)
            else:
                self._spread(blocks, self._transform_filter)
                self._spread(boxes, self._convolve)

    def _spread(self, items: Sequence[Any], function: Callable[[Any, int, bool], None]) -> None:
        """function(item, worker, whether it is the worker's first); fixed, so that sums are the same in each run."""
        workers = self.planner.workers

        def work(worker: int) -> None:
            for place in range(worker, len(items), workers):
                function(items[place], worker, place == worker)

        if workers == 1:
            work(0)
        else:
            list(pool(self.threads).map(work, range(workers)))

    def _transform_filter(self, part: slice, worker: int, _first: bool) -> None:
        block, flat = self._block(part, worker)
        block[...] = self._taps[..., part, :]
        np.matmul(self._g, flat, out=self._flat_filter(part))

    def _inverse_filter(self, part: slice, worker: int, _first: bool) -> None:
        block, flat = self._block(part, worker)
        np.matmul(self._g.T, self._flat_filter(part), out=flat)
        self._taps[..., part, :] = block

    def _block(self, part: slice, worker: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """A buffer for the filters of some channels: (taps…, channels, written) and (taps, channels·written)."""
        written = self._taps.shape[-1]
        count = part.stop - part.start
        flat = self._blocks[worker][: self.planner.taps * count * written].reshape(self.planner.taps, count * written)
        return flat.reshape(*self._taps.shape[:-2], count, written), flat

    def _flat_filter(self, part: slice) -> NDArray[Any]:
        """The transformed filters of some channels as (points, channels·written)."""
        filters = self._filters[0][:, part]
        return np.reshape(filters, (len(filters), -1), copy=False)

    def _convolve(self, box: tuple[slice, ...], worker: int, _first: bool) -> None:
        """Correlates a chunk: fprop or dgrad."""
        read, written = self.planner.channels
        source, target = (self.y, self.x) if self.case.conv_pass is ConvPass.DGRAD else (self.x, self.y)
        points, tiles = self.planner.points, _volume(box)
        data, spare = self._forward(source[:, 0], box, *self._buffers[worker])
        products = spare[: points * tiles * written]
        np.matmul(
            data[: points * tiles * read].reshape(points, tiles, read),
            self._filters[0],
            out=products.reshape(points, tiles, written),
        )
        lengths = [axis.tile for axis in self.planner.axes]
        data, spare = _transform(self._at, spare, data, lengths, tiles * written, range(len(lengths)))
        self._store(target[:, 0], box, data, spare)

    def _gradient_of_tiles(self, box: tuple[slice, ...], worker: int, first: bool) -> None:
        """Adds wgrad of a chunk, at the points, to the filter of its worker."""
        read, written = self.planner.channels
        points, tiles = self.planner.points, _volume(box)
        a, b, c = self._buffers[worker]
        v, b = self._forward(self.x[:, 0], box, a, b)
        e = self._transposed(self.y[:, 0], box, b, c)
        x = v[: points * tiles * read].reshape(points, tiles, read).swapaxes(1, 2)
        dy = e[: points * tiles * written].reshape(points, tiles, written)
        total = self._filters[worker]
        for part in _slices(points, self.planner.added_points):
            if first:
                np.matmul(x[part], dy[part], out=total[part])
            else:
                product = self._products[worker][: part.stop - part.start]
                total[part] += np.matmul(x[part], dy[part], out=product)

    def _forward(
        self, source: NDArray[Any], box: tuple[slice, ...], data: NDArray[Any], spare: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Bᵀ of the tiles of a chunk of `source` (N, C, input…): the buffers, that with (points, tiles, C) first."""
        axes = self.planner.axes
        starts = [part.start * axis.m - axis.before for part, axis in zip(box[1:], axes, strict=True)]
        sizes = [_len(part) * a.m + a.taps - 1 for part, a in zip(box[1:], axes, strict=True)]
        strip = _strip(source[box[0]], starts, sizes, spare)
        image, *spatial, channel = strip.strides
        lengths = [axis.tile for axis in axes]
        counts = [_len(part) for part in box]
        steps = [stride * axis.m for stride, axis in zip(spatial, axes, strict=True)]
        shape = (*lengths, *counts, strip.shape[-1])
        tiles = as_strided(strip, shape, (*spatial, image, *steps, channel), writeable=False)
        data[: math.prod(shape)].reshape(shape)[...] = tiles
        rest = _volume(box) * strip.shape[-1]
        return _transform(self._bt, data, spare, lengths, rest, reversed(range(len(lengths))))

    def _transposed(
        self, source: NDArray[Any], box: tuple[slice, ...], data: NDArray[Any], spare: NDArray[Any]
    ) -> NDArray[Any]:
        """A of the tiles of a chunk of dy (N, K, output…): a buffer that starts with (points, tiles, K)."""
        axes = self.planner.axes
        starts = [part.start * axis.m for part, axis in zip(box[1:], axes, strict=True)]
        sizes = [_len(part) * axis.m for part, axis in zip(box[1:], axes, strict=True)]
        strip = _strip(source[box[0]], starts, sizes, spare)
        tiles = self._by_position(strip, box)
        data[: tiles.size].reshape(tiles.shape)[...] = tiles
        matrices = [None if at is None else at.T for at in self._at]
        rest = _volume(box) * strip.shape[-1]
        lengths = [axis.m for axis in axes]
        return _transform(matrices, data, spare, lengths, rest, reversed(range(len(axes))))[0]

    def _store(self, target: NDArray[Any], box: tuple[slice, ...], data: NDArray[Any], spare: NDArray[Any]) -> None:
        """Writes (positions in the tile, tiles, channels) to the outputs of a chunk of `target` (N, K, output…)."""
        axes, channels = self.planner.axes, target.shape[1]
        sizes = [_len(part) * axis.m for part, axis in zip(box[1:], axes, strict=True)]
        shape = (_len(box[0]), *sizes, channels)
        strip = spare[: math.prod(shape)].reshape(shape)
        tiles = self._by_position(strip, box)
        tiles[...] = data[: tiles.size].reshape(tiles.shape)
        if self.bias is not None:
            self.finish(strip, self.bias[0])
        starts = [part.start * axis.m for part, axis in zip(box[1:], axes, strict=True)]
        stops = [min(s + size, axis.outputs) for s, size, axis in zip(starts, sizes, axes, strict=True)]
        inside = [slice(0, stop - start) for start, stop in zip(starts, stops, strict=True)]
        where = [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
        target[index(box[0], slice(None), *where)] = np.moveaxis(strip[index(slice(None), *inside)], -1, 1)

    def _by_position(self, strip: NDArray[Any], box: tuple[slice, ...]) -> NDArray[Any]:
        """A strip of outputs (image, spatial…, channel) as (position in the tile…, image, tiles…, channel), a view."""
        split = [
            extent for part, axis in zip(box[1:], self.planner.axes, strict=True) for extent in (_len(part), axis.m)
        ]
        ndim = len(self.planner.axes)
        view = strip.reshape(len(strip), *split, strip.shape[-1])
        return view.transpose(*range(2, 2 * ndim + 1, 2), 0, *range(1, 2 * ndim, 2), 2 * ndim + 1)


def _strip(source: NDArray[Any], starts: Sequence[int], sizes: Sequence[int], buffer: NDArray[Any]) -> NDArray[Any]:
    """`sizes` elements from `starts` of a tensor (n, channels, spatial…), as (n, sizes…, channels), 0 outside of it."""
    shape = (len(source), *sizes, source.shape[1])
    strip = buffer[: math.prod(shape)].reshape(shape)
    inside, where = [], []
    for start, size, extent in zip(starts, sizes, source.shape[2:], strict=True):
        first = min(max(0, -start), size)
        stop = max(first, min(size, extent - start))
        inside.append(slice(first, stop))
        where.append(slice(start + first, start + stop))
    if any(_len(part) < size for part, size in zip(inside, sizes, strict=True)):
        strip.fill(0)
    if all(map(_len, inside)):
        strip[index(slice(None), *inside)] = np.moveaxis(source[index(slice(None), slice(None), *where)], 1, -1)
    return strip


def _transform(
    matrices: Sequence[NDArray[Any] | None],
    data: NDArray[Any],
    spare: NDArray[Any],
    lengths: Sequence[int],
    rest: int,
    order: Iterable[int],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Multiplies the axes of (lengths…, rest) by their matrices, None a unit one: the buffers, the result's first."""
    extents = list(lengths)
    for axis in order:
        matrix = matrices[axis]
        if matrix is None:
            continue
        rows, length = matrix.shape
        before, after = math.prod(extents[:axis]), math.prod(extents[axis + 1 :]) * rest
        out = spare[: before * rows * after].reshape(before, rows, after)
        np.matmul(matrix, data[: before * length * after].reshape(before, length, after), out=out)
        extents[axis] = rows
        data, spare = spare, data
    return data, spare


def _slices(extent: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, extent)) for start in range(0, extent, size)]


def _len(part: slice) -> int:
    length: int = part.stop - part.start
    return length


def _volume(box: Sequence[slice]) -> int:
    return math.prod(map(_len, box))
