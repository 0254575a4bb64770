"""`fft`: convolution by real FFTs of tiles or whole planes (SciPy's pocketfft), strides by polyphase decomposition."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.fft

from convbench.backends import ErrorBound
from convbench.backends.cpu.fft_planner import best_planner
from convbench.backends.cpu.plans import CpuPlan
from convbench.backends.cpu.threads import blas_threads, pool
from convbench.backends.cpu.windows import slices
from convbench.operands import index
from convbench.problem import Case, ConvPass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from convbench.backends import PlanOptions
    from convbench.backends.cpu.fft_tiles import Tile
    from convbench.operands import Operands


class Run(NamedTuple):
    """Images of one tile that lie side by side in a buffer, in `part` of it."""

    tiles: tuple[Tile, ...]
    images: slice
    part: slice


class FftPlan(CpuPlan):
    """Spectra lie frequency-major, (bins…, G, rows, columns), so that the product is one small matrix per bin."""

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        self.planner = planner = best_planner(case, options.threads)
        self.algorithm = planner.algorithm
        super().__init__(case, operands, planner.work(), planner.workspace_bytes, options)
        self.error_bound = ErrorBound(
            growth=max(1.0, math.log2(planner.fft_points)),
            transform_points=planner.fft_points * planner.phase_count,
        )
        g, i, j, k = planner.chunk
        self._a = np.empty((*planner.fft_size, g, i, k), self._stored.dtype)
        self._b = np.empty((*planner.fft_size, g, k, j), self._stored.dtype)
        spectrum = (*planner.half_size, g, i, j)
        self._products = [np.empty(spectrum, np.result_type(self._a, 1j)) for _ in range(planner.products)]
        self._places: dict[str, list[Any]] = {}
        for buffer in (self._a, self._b, *self._products):
            buffer.fill(0)  # np.zeros would leave pages untouched, which are neither memory nor read like it

    def run(self) -> None:
        """Writes y, dx or dw."""
        # BLAS spreads one product over threads, of which there is a small one per frequency; its threads would then
        # spin, and take CPUs from the transforms.
        with blas_threads(1):
            self._run()

    def _run(self) -> None:
        p = self.case.problem
        if self.case.conv_pass is ConvPass.DGRAD:
            self._stored.fill(0)  # input elements that no tap reaches
        first, second, product, last = (phase.name for phase in self.work.phases)
        self.laps.begin()
        rows, conv_pass = self.planner.rows, self.case.conv_pass
        conjugate = conv_pass is ConvPass.WGRAD, conv_pass is ConvPass.FPROP
        i_all, j_all, l_all = self.planner.roles
        g_size, i_size, j_size, l_size = self.planner.chunk
        nothing: NDArray[Any] = np.empty(0)
        for g in slices(p.groups, g_size):
            kept_a = kept_b = None
            a = b = nothing
            for j, i in itertools.product(slices(j_all, j_size), slices(i_all, i_size)):
                total: NDArray[Any] | None = None
                for k in slices(l_all, l_size):
                    if kept_a != (i, k):
                        a = nothing  # frees the last one before the next is made
                        a, kept_a = self._spectrum(self._load_a(g, i, k), rows[0], conjugate[0]), (i, k)
                        self.lap(first)
                    if kept_b != (k, j):
                        b = nothing
                        b, kept_b = self._spectrum(self._load_b(g, k, j), rows[1], conjugate[1]), (k, j)
                        self.lap(second)
                    if total is None:
                        total = self._product(a, b, self._products[0])  # (bins…, g, i, j)
                    else:
                        np.add(total, self._product(a, b, self._products[1]), out=total)
                    self.lap(product)
                if total is not None:
                    self._store(g, i, j, self._inverse(total, rows[2]))
                    self.lap(last)
                elif self.case.conv_pass is ConvPass.WGRAD:
                    self._stored.fill(0)  # an empty batch

    def _product(self, a: NDArray[Any], b: NDArray[Any], buffer: NDArray[Any]) -> NDArray[Any]:
        """(bins…, g, i, l) and (bins…, g, l, j) as (bins…, g, i, j), a part of the bins on each thread."""
        function = np.multiply if a.shape[-1] == 1 else np.matmul
        shape = (*a.shape[:-1], b.shape[-1])
        out = buffer.reshape(-1)[: math.prod(shape)].reshape(shape)
        parts = slices(len(a), -(-len(a) // self.threads))
        list(pool(self.threads).map(lambda part: function(a[part], b[part], out=out[part]), parts))
        return out

    # On the first axis, which is transformed last and back first, rows of zeros need no transform along the others.

    def _spectrum(self, real: NDArray[Any], rows: int, conjugate: bool) -> NDArray[Any]:
        """The half spectrum (bins…, g, rows, columns) of (fft…, g, rows, columns), of which so many hold anything."""
        size, axes = self.planner.fft_size, tuple(range(1, self.case.problem.ndim))
        if not axes:
            spectrum = _array(scipy.fft.rfft(real, axis=0, workers=self.threads))
            return np.conj(spectrum, out=spectrum) if conjugate else spectrum
        half = _array(scipy.fft.rfftn(real[:rows], axes=axes, workers=self.threads))
        if not conjugate:
            return _array(scipy.fft.fft(half, n=size[0], axis=0, workers=self.threads, overwrite_x=True))
        np.conj(half, out=half)  # the conjugate of a transform is the opposite one of the conjugate
        return _array(scipy.fft.ifft(half, size[0], axis=0, norm="forward", workers=self.threads, overwrite_x=True))

    def _inverse(self, spectrum: NDArray[Any], rows: int) -> NDArray[Any]:
        """The first so many rows of the inverse."""
        size, axes = self.planner.fft_size, tuple(range(1, self.case.problem.ndim))
        if not axes:
            return _array(scipy.fft.irfft(spectrum, n=size[0], axis=0, workers=self.threads, overwrite_x=True))[:rows]
        half = scipy.fft.ifft(spectrum, axis=0, workers=self.threads, overwrite_x=True)
        return _array(scipy.fft.irfftn(half[:rows], s=size[1:], axes=axes, workers=self.threads, overwrite_x=True))

    # Loading writes the same places of a buffer each time, so that what was zero stays zero; or it clears the buffer.

    def _load_a(self, g: slice, i: slice, k: slice) -> NDArray[Any]:
        """The first operand, (fft…, g, i, l): x in fprop, dy otherwise."""
        buffer = self._a[..., : _len(g), : _len(i), : _len(k)]
        if self.case.conv_pass is ConvPass.FPROP:
            self._load_x(buffer, g, i, k)
        else:
            wgrad = self.case.conv_pass is ConvPass.WGRAD
            runs = self._runs(k if wgrad else i)
            self._clear_unless("_a", [(run.part, [tile.y_rows for tile in run.tiles]) for run in runs])
            for run in runs:
                places = index(*(tile.y_rows for tile in run.tiles), slice(None))
                outputs = [tile.y for tile in run.tiles]
                if wgrad:
                    buffer[(*places, slice(None), run.part)] = _spatial_first(
                        self.y[index(run.images, g, i, *outputs)], (1, 2, 0)
                    )
                else:
                    buffer[(*places, run.part)] = _spatial_first(self.y[index(run.images, g, k, *outputs)], (1, 0, 2))
        return buffer

    def _load_b(self, g: slice, k: slice, j: slice) -> NDArray[Any]:
        """The second operand, (fft…, g, l, j): w in fprop and dgrad, x in wgrad."""
        buffer = self._b[..., : _len(g), : _len(k), : _len(j)]
        if self.case.conv_pass is ConvPass.FPROP:
            for rows, taps, channels, part in self._filter_parts(k):
                buffer[index(*rows, slice(None), part)] = _spatial_first(
                    self.w[index(g, j, channels, *taps)], (0, 2, 1)
                )
        elif self.case.conv_pass is ConvPass.DGRAD:
            for rows, taps, channels, part in self._filter_parts(j):
                buffer[index(*rows, slice(None), slice(None), part)] = _spatial_first(
                    self.w[index(g, k, channels, *taps)], (0, 1, 2)
                )
        else:
            self._load_x(buffer, g, k, j)
        return buffer

    def _store(self, g: slice, i: slice, j: slice, real: NDArray[Any]) -> None:
        if self.case.conv_pass is ConvPass.FPROP:
            for run in self._runs(i):
                block = real[index(*(tile.y_rows for tile in run.tiles), slice(None), run.part)]
                if self.bias is not None:
                    self.finish(block, self.bias[g, None, j])
                outputs = [tile.y for tile in run.tiles]
                _spatial_first(self.y[index(run.images, g, j, *outputs)], (1, 0, 2))[...] = block
        elif self.case.conv_pass is ConvPass.DGRAD:
            for run in self._runs(i):
                for rows, inputs, channels, part in self._input_parts(run.tiles, j):
                    _spatial_first(self.x[index(run.images, g, channels, *inputs)], (1, 0, 2))[...] = real[
                        index(*rows, slice(None), run.part, part)
                    ]
        else:
            for rows, taps, channels, part in self._filter_parts(j):
                _spatial_first(self.w[index(g, i, channels, *taps)], (0, 1, 2))[...] = real[index(*rows, ..., part)]

    def _load_x(self, buffer: NDArray[Any], g: slice, n: slice, c: slice) -> None:
        runs, name = self._runs(n), "_a" if self.case.conv_pass is ConvPass.FPROP else "_b"
        self._clear_unless(name, [(run.part, [tile.x_rows for tile in run.tiles]) for run in runs])
        for run in runs:
            for rows, inputs, channels, part in self._input_parts(run.tiles, c):
                buffer[index(*rows, slice(None), run.part, part)] = _spatial_first(
                    self.x[index(run.images, g, channels, *inputs)], (1, 0, 2)
                )

    def _clear_unless(self, name: str, places: list[Any]) -> None:
        """Fills a buffer with zeros, unless `places` will overwrite all that it holds."""
        if self.planner.tiled and self._places.setdefault(name, places) != places:
            getattr(self, name).fill(0)
            self._places[name] = places

    def _runs(self, images: slice) -> list[Run]:
        """The images in a chunk, tile by tile: those of a tile lie side by side."""
        batch, axes = self.case.problem.batch, self.planner.axes
        found, start = [], images.start
        while start < images.stop:
            place, first = divmod(start, batch)
            stop = min(images.stop, start - first + batch)
            tiles = []
            for axis in reversed(axes):
                place, tile = divmod(place, axis.count)
                tiles.append(axis.tiles[tile])
            part = slice(start - images.start, stop - images.start)
            found.append(Run(tuple(reversed(tiles)), slice(first, first + stop - start), part))
            start = stop
        return found

    def _input_parts(self, tiles: tuple[Tile, ...], c: slice) -> Iterator[tuple[Any, Any, slice, slice]]:
        """Per phase: rows of the buffer, elements of x, channels of x, and columns of the buffer for a chunk of c."""
        for phases, channels, part in self._phases(c):
            yield (
                [tile.x_rows[phase] for tile, phase in zip(tiles, phases, strict=True)],
                [tile.x[phase] for tile, phase in zip(tiles, phases, strict=True)],
                channels, part,
            )  # fmt: skip

    def _filter_parts(self, c: slice) -> Iterator[tuple[list[slice], list[slice], slice, slice]]:
        """Per phase: rows of the buffer, taps of w, channels of w, and columns of the buffer for a chunk of c."""
        for places, channels, part in self._phases(c):
            phases = [per_axis[place] for per_axis, place in zip(self.planner.phases, places, strict=True)]
            taps = [
                slice(phase.first_tap, a.filter, phase.tap_step)
                for phase, a in zip(phases, self.case.problem.axes, strict=True)
            ]
            rows = [
                slice(phase.first_row, phase.first_row + (_count(tap) - 1) * phase.row_step + 1, phase.row_step)
                for phase, tap in zip(phases, taps, strict=True)
            ]
            yield rows, taps, channels, part

    def _phases(self, c: slice) -> Iterator[tuple[tuple[int, ...], slice, slice]]:
        """Phases of all axes together, with the channels in a chunk of c and their columns in its buffer.

        Columns are ordered (channel, phase), so that a column keeps its phase in a shorter last chunk.
        """
        counts = list(map(len, self.planner.phases))
        count = math.prod(counts)
        width = _len(c) // count
        channels = slice(c.start // count, c.start // count + width)
        for column, phases in enumerate(itertools.product(*map(range, counts))):
            yield phases, channels, slice(column, width * count, count)


def _array(found: Any) -> NDArray[Any]:
    """SciPy's functions are not typed."""
    array: NDArray[Any] = found
    return array


def _len(part: slice) -> int:
    length: int = part.stop - part.start
    return length


def _count(taps: slice) -> int:
    return len(range(taps.start, taps.stop, taps.step))


def _spatial_first(block: NDArray[Any], order: tuple[int, int, int]) -> NDArray[Any]:
    """A block of three leading axes and then spatial ones, as (spatial…, the three in `order`)."""
    spatial = range(3, block.ndim)
    return block.transpose(*spatial, *order)
