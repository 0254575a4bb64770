"""`winograd` and `dft`: convolution on transformed tiles, in one to three dimensions, with any stride and dilation."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convbench.backends import ErrorBound
from convbench.backends.cpu.chains import blocked_product, chain, slots, wide_product
from convbench.backends.cpu.plans import CpuPlan
from convbench.backends.cpu.split import Places
from convbench.backends.cpu.threads import blas_threads, spread
from convbench.backends.cpu.tiled_planner import Block, Box, Piece, TiledPlanner, slices
from convbench.backends.cpu.transforms import Winograd, transposed
from convbench.operands import index
from convbench.problem import Case, ConvPass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from convbench.backends import Clock, PlanOptions
    from convbench.backends.cpu.transforms import Step
    from convbench.operands import Operands


class TiledPlan(CpuPlan):
    """Points come first, then tiles (spatial, then images), then channels: one matrix product per point.

    A chunk's inputs are copied to a strip (spatial…, image, channels) with zeros for padding, which is the tile itself
    where there is one per axis, and otherwise is copied to tiles (tile…, tiles…, image, channels). Channels of x are
    (group, phase, channel). Transformed filters are (points, out_channels, phases × channels of a group).
    """

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

    def run_phases(self, clock: Clock) -> list[float]:
        """Seconds of each phase of a run."""
        return self.laps.seconds(self.run, self.work)

    def run(self) -> None:
        """Writes y, dx or dw."""
        workers = self.planner.workers
        with blas_threads(1):  # the threads are ours: copies take as long as products
            if self.case.conv_pass is ConvPass.WGRAD:
                spread(list(enumerate(self._boxes)), workers, self._gradient)
                if not self._boxes:
                    self._transformed[0].fill(0)
                self.laps.begin()
                for other in self._transformed[1:]:
                    self._transformed[0] += other
                self.laps.end("product")
                spread(self.planner.blocks, workers, self._inverse_filter)
                return
            if self.case.conv_pass is ConvPass.DGRAD and self.planner.leaves_gaps:
                self._stored.fill(0)
            spread(self.planner.blocks, workers, self._transform_filter)
            spread(self._boxes, workers, self._convolve)

    # The filter

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
        groups, phases, channels = (_length(piece) for piece in part[:3])
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

    # Chunks

    def _convolve(self, box: Box, worker: int) -> None:
        """Correlates a chunk: fprop or dgrad."""
        dgrad = self.case.conv_pass is ConvPass.DGRAD
        self.laps.begin()
        data, spare = self._ahead(box, self.y if dgrad else self.x, not dgrad, *self._buffers[worker])
        self.laps.end("transform dy" if dgrad else "transform x")
        tiles = _tiles(box)
        read, written = self.planner.channels
        self._multiply(self._tiles(data, tiles, read), self._tiles(spare, tiles, written))
        self.laps.end("product")
        steps = self.planner.transform.inverse([piece.outputs for piece in box.pieces])
        data, spare = chain(self._inverses(box), steps, spare, data, self.planner.slot(tiles * written))
        self._store(box, data, spare)
        self.laps.end("inverse dx" if dgrad else "inverse y")

    def _inverses(self, box: Box) -> list[NDArray[Any]]:
        """The rows of the inverse matrices whose outputs exist."""
        pairs = map(self.planner.transform.pairs, range(len(self._inverse)))
        return [
            matrix[: pair * piece.outputs] for matrix, pair, piece in zip(self._inverse, pairs, box.pieces, strict=True)
        ]

    def _tiles(self, data: NDArray[Any], tiles: int, channels: int) -> NDArray[Any]:
        """A buffer as (points, tiles, channels)."""
        slot = self.planner.slot(tiles * channels)
        return slots(data, (self.planner.points, tiles, channels), slot, clear=True)

    def _multiply(self, source: NDArray[Any], target: NDArray[Any]) -> None:
        """(points, tiles, channels read) by the transformed filters to (points, tiles, channels written)."""
        filters = self._transformed[0]
        points, groups, rows, columns = filters.shape
        if groups == 1:
            blocked_product(source, filters[:, 0], target)
        elif rows == columns == 1:
            np.multiply(source, filters.reshape(points, 1, groups), out=target)
        else:
            np.matmul(_by_group(source, groups), filters, out=_by_group(target, groups))

    def _gradient(self, numbered: tuple[int, Box], worker: int) -> None:
        """Adds wgrad of a chunk, at the points, to the filter of its worker."""
        number, box = numbered
        first = number == worker  # of those that are dealt to it
        tiles, points, groups = _tiles(box), self.planner.points, self.case.problem.groups
        read, written = self.planner.channels
        a, b, c = self._buffers[worker]
        self.laps.begin()
        v, b = self._ahead(box, self.x, True, a, b)
        self.laps.end("transform x")
        e = self._transposed(box, b, c)
        self.laps.end("transform dy")
        x, dy = (_by_group(self._tiles(*each), groups) for each in ((v, tiles, read), (e, tiles, written)))
        total = self._transformed[worker]
        for part in slices(points, self.planner.added_points):
            out = total[part] if first else self._products[worker][: part.stop - part.start]
            np.matmul(dy[part].swapaxes(2, 3), x[part], out=out)
            if not first:
                total[part] += out
        self.laps.end("product")

    def _ahead(
        self, box: Box, tensor: NDArray[Any], is_x: bool, data: NDArray[Any], spare: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The transformed tiles of a chunk: the buffers, that with (points, tiles, channels) first."""
        planner = self.planner
        tiles = planner.transform.tiles
        starts = [
            axis.reads_from + piece.first * tile.m + piece.low
            for axis, piece, tile in zip(planner.axes, box.pieces, tiles, strict=True)
        ]
        sizes = [piece.high - piece.low for piece in box.pieces]
        single = all(piece.tiles == 1 for piece in box.pieces)
        slot = planner.slot(_tiles(box) * planner.channels[0])
        lengths = planner.lengths(box.pieces)
        if single:
            self._strip(box, tensor, is_x, starts, sizes, data, spare, slot)
        else:
            strip = self._strip(box, tensor, is_x, starts, sizes, spare, data)
            *spatial, image, channel = strip.strides
            steps = [stride * tile.m for stride, tile in zip(spatial, tiles, strict=True)]
            shape = (*lengths, *(piece.tiles for piece in box.pieces), *strip.shape[-2:])
            cut = as_strided(strip, shape, (*spatial, *steps, image, channel), writeable=False)
            slots(data, shape, slot, clear=True)[...] = cut
        matrices = [
            _columns(matrix, piece, planner.transform.pairs(axis))
            for axis, (matrix, piece) in enumerate(zip(self._forward, box.pieces, strict=True))
        ]
        return chain(matrices, planner.transform.forward(lengths), data, spare, slot)

    def _strip(
        self,
        box: Box,
        tensor: NDArray[Any],
        is_x: bool,
        starts: Sequence[int],
        sizes: Sequence[int],
        buffer: NDArray[Any],
        other: NDArray[Any],
        slot: int | None = None,
    ) -> NDArray[Any]:
        """`sizes` elements from `starts` of a tensor, as (sizes…, images, channels), 0 where there are none."""
        images = _length(box.images)
        phases = self.planner.phases if is_x else 1
        channels = (tensor.shape[1], phases, tensor.shape[2])
        strip = slots(buffer, (*sizes, images, *channels), slot or images * math.prod(channels), clear=True)
        if is_x and self.planner.deepens:
            deep, plane, where, inside = self._deepened(box, starts, sizes, other)
            if plane[inside].shape != plane.shape:
                plane.fill(0)
            plane[inside] = np.moveaxis(tensor[where], (1, 2), (-2, -1))
            np.copyto(np.reshape(strip, deep.shape, copy=False), deep)
            return np.reshape(strip, (*sizes, images, -1), copy=False)
        windows = [
            [p.window(start, size) for p, start, size in zip(places, starts, sizes, strict=True)]
            for places in self._places(box, is_x)
        ]
        if any(_length(inside) < size for each in windows for (inside, _), size in zip(each, sizes, strict=True)):
            strip.fill(0)
        for place, each in enumerate(windows):
            inside, where = zip(*each, strict=True)
            if all(map(_length, inside)):
                source = tensor[index(box.images, slice(None), slice(None), *where)]
                strip[index(*inside, slice(None), slice(None), place)] = np.moveaxis(source, (0, 1, 2), (-3, -2, -1))
        return np.reshape(strip, (*sizes, images, -1), copy=False)

    def _deepened(
        self, box: Box, starts: Sequence[int], sizes: Sequence[int], buffer: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], tuple[Any, ...], tuple[Any, ...]]:
        """Space to depth: all phases of a part of x at once, which without dilation lie side by side.

        Gives a view of a buffer as (elements…, images, groups, phases…, channels), the same as a piece of the plane
        (images, spatial…, groups, channels), and what of x and of the piece meet in.
        """
        p, splits = self.case.problem, self.planner.splits
        steps = [split.axis.stride for split in splits]
        lengths = [size * step for size, step in zip(sizes, steps, strict=True)]
        shape = (_length(box.images), *lengths, p.groups, p.in_channels // p.groups)
        plane = buffer[: math.prod(shape)].reshape(shape)
        windows = [
            Places(-split.axis.before, 1, split.axis.input).window(start * step, length)
            for split, start, step, length in zip(splits, starts, steps, lengths, strict=True)
        ]
        inside, where = zip(*windows, strict=True)
        ndim = len(splits)
        pairs = [extent for pair in zip(sizes, steps, strict=True) for extent in pair]
        deep = plane.reshape(shape[0], *pairs, *shape[-2:])
        phases = [part for split in splits for part in (slice(None), slice(0, split.phases))]
        deep = deep[(slice(None), *phases)]
        order = (*range(1, 2 * ndim, 2), 0, 2 * ndim + 1, *range(2, 2 * ndim + 1, 2), 2 * ndim + 2)
        return deep.transpose(order), plane, (box.images, slice(None), slice(None), *where), (slice(None), *inside)

    def _places(self, box: Box, is_x: bool) -> Iterator[list[Places]]:
        """Per phase of x, or once for y: where the elements of each axis lie."""
        splits = self.planner.splits
        if not is_x:
            yield [split.y(residue) for split, residue in zip(splits, box.residues, strict=True)]
            return
        for phases in itertools.product(*(range(split.phases) for split in splits)):
            yield [split.x(f, residue) for split, f, residue in zip(splits, phases, box.residues, strict=True)]

    def _transposed(self, box: Box, data: NDArray[Any], spare: NDArray[Any]) -> NDArray[Any]:
        """A of the tiles of a chunk of dy: a buffer that starts with (points, tiles, channels)."""
        planner = self.planner
        tiles = planner.transform.tiles
        starts = [piece.first * tile.m for piece, tile in zip(box.pieces, tiles, strict=True)]
        single = all(piece.tiles == 1 for piece in box.pieces)
        sizes = [_outputs(piece, tile.m) for piece, tile in zip(box.pieces, tiles, strict=True)]
        slot = planner.slot(_tiles(box) * planner.channels[1])
        if single:
            self._strip(box, self.y, False, starts, sizes, data, spare, slot)
        else:
            cut = _by_position(self._strip(box, self.y, False, starts, sizes, spare, data), box)
            slots(data, cut.shape, slot, clear=True)[...] = cut
        outputs = [piece.outputs for piece in box.pieces]
        steps = transposed(planner.transform.inverse(outputs))
        matrices = [matrix.T for matrix in self._inverses(box)]
        return chain(matrices, steps, data, spare, slot)[0]

    def _store(self, box: Box, data: NDArray[Any], spare: NDArray[Any]) -> None:
        """Writes (positions in the tile, tiles, images, channels) to the outputs of a chunk."""
        planner = self.planner
        tiles, is_x = planner.transform.tiles, self.case.conv_pass is ConvPass.DGRAD
        tensor = self.x if is_x else self.y
        written = planner.channels[1]
        sizes = [_outputs(piece, tile.m) for piece, tile in zip(box.pieces, tiles, strict=True)]
        images = _length(box.images)
        slot = planner.slot(_tiles(box) * written)
        other = spare
        if all(piece.tiles == 1 for piece in box.pieces):
            strip = slots(data, (*sizes, images, written), slot)
        else:
            other = data
            strip = slots(spare, (*sizes, images, written), images * written)
            cut = _by_position(strip, box)
            cut[...] = slots(data, cut.shape, slot)
        if self.bias is not None:
            self.finish(strip, self.bias.reshape(-1))
        starts = [
            axis.writes_from + piece.first * tile.m
            for axis, piece, tile in zip(planner.axes, box.pieces, tiles, strict=True)
        ]
        if is_x and planner.deepens:
            deep, plane, where, inside = self._deepened(box, starts, sizes, other)
            if planner.leaves_gaps:
                plane.fill(0)
            deep[...] = np.reshape(strip, deep.shape, copy=False)
            tensor[where] = np.moveaxis(plane[inside], (-2, -1), (1, 2))
            return
        by_phase = np.reshape(strip, (*strip.shape[:-1], tensor.shape[1], -1, tensor.shape[2]), copy=False)
        for place, places in enumerate(self._places(box, is_x)):
            windows = [p.window(start, size) for p, start, size in zip(places, starts, sizes, strict=True)]
            inside, where = zip(*windows, strict=True)
            source = by_phase[index(*inside, slice(None), slice(None), place)]
            tensor[index(box.images, slice(None), slice(None), *where)] = np.moveaxis(source, (-3, -2, -1), (0, 1, 2))


def _columns(matrix: NDArray[Any], piece: Piece, pairs: int) -> NDArray[Any]:
    """The columns of a forward matrix that meet the elements of a pruned tile."""
    return matrix[:, pairs * piece.low : pairs * piece.high] if piece.tiles == 1 else matrix


def _outputs(piece: Piece, m: int) -> int:
    """Outputs along one axis of a chunk."""
    return piece.outputs if piece.tiles == 1 else piece.tiles * m


def _by_position(strip: NDArray[Any], box: Box) -> NDArray[Any]:
    """A strip of outputs (spatial…, images, channels) as (position in the tile…, tiles…, images, channels), a view."""
    ndim = len(box.pieces)
    split = [
        extent for piece, size in zip(box.pieces, strip.shape, strict=False)
        for extent in (piece.tiles, size // piece.tiles)
    ]  # fmt: skip
    view = np.reshape(strip, (*split, *strip.shape[-2:]), copy=False)
    return view.transpose(*range(1, 2 * ndim, 2), *range(0, 2 * ndim, 2), 2 * ndim, 2 * ndim + 1)


def _by_group(matrix: NDArray[Any], groups: int) -> NDArray[Any]:
    """(points, tiles, channels) as (points, groups, tiles, channels of a group), a view."""
    return matrix.reshape(*matrix.shape[:2], groups, -1).swapaxes(1, 2)


def _tiles(box: Box) -> int:
    """Tiles of a chunk, images among them."""
    return _length(box.images) * math.prod(piece.tiles for piece in box.pieces)


def _length(part: slice) -> int:
    length: int = len(range(part.start, part.stop, part.step or 1))
    return length
