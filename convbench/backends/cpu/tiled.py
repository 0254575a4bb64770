"""`winograd` and `dft`: convolution on transformed tiles, in one to three dimensions, with any stride and dilation."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convbench.backends.cpu.chains import blocked_product, chain, slots
from convbench.backends.cpu.split import Places
from convbench.backends.cpu.threads import blas_threads, spread
from convbench.backends.cpu.tiled_filters import TiledFilters
from convbench.backends.cpu.transforms import transposed
from convbench.backends.cpu.windows import pieces, slices
from convbench.operands import index
from convbench.problem import ConvPass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from convbench.backends.cpu.tiled_planner import Box, Piece


class TiledPlan(TiledFilters):
    """Points come first, then tiles (spatial, then images), then channels: one matrix product per point.

    A chunk's inputs are copied to a strip (spatial…, image, channels) with zeros for padding, which is the tile itself
    where there is one per axis, and otherwise is copied to tiles (tile…, tiles…, image, channels). Channels of x are
    (group, phase, channel).
    """

    def run(self) -> None:
        """Writes y, dx or dw."""
        workers = self.planner.workers
        with blas_threads(1):  # the threads are ours: copies take as long as products
            if self.case.conv_pass is ConvPass.WGRAD:
                spread(list(enumerate(self._boxes)), workers, self._gradient)
                if not self._boxes:
                    self._transformed[0].fill(0)
                spread(slices(self.planner.points, pieces(self.planner.points, workers)), workers, self._add_up)
                spread(self.planner.blocks, workers, self._inverse_filter)
                return
            if self.case.conv_pass is ConvPass.DGRAD and self.planner.leaves_gaps:
                self._stored.fill(0)
            spread(self.planner.blocks, workers, self._transform_filter)
            spread(self._boxes, workers, self._convolve)

    # Chunks

    def _add_up(self, part: slice, worker: int) -> None:
        """Adds the gradients of the other workers to the first's, at some points."""
        self.laps.begin()
        for other in self._transformed[1:]:
            self._transformed[0][part] += other[part]
        self.laps.end("product")

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
