"""What an algorithm on transformed tiles does for a case: chunks, work and memory, without NumPy."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from convbench.backends.cpu.split import Split
from convbench.backends.cpu.tiling import TileAxis, Tiling, best_tiling, chunk_tiles, correlation, reason, size_of
from convbench.backends.cpu.windows import chunk_extents, pieces, slices
from convbench.errors import UnsupportedError
from convbench.problem import Case, ConvPass, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convbench.backends.cpu.transforms import Step, Transform
    from convbench.work import Work

PAGE_BYTES, LINE_BYTES = 4096, 64
BLOCK_BYTES = 1 << 20
"""Filter elements transformed at once, and products added at once in wgrad."""


class Piece(NamedTuple):
    """Tiles along one axis of one chunk.

    A single tile is pruned: of its `reads` elements only those of [low, high), which are inside the tensor, and of its
    outputs only those that exist. Several are cut from a strip of all that they read.
    """

    first: int
    tiles: int
    low: int
    high: int
    outputs: int


class Block(NamedTuple):
    """Filters transformed at once: groups, phases and channels (of x in fprop, else of y), and the first row."""

    groups: slice
    phases: slice
    channels: slice
    first: int

    @property
    def rows(self) -> int:
        """Rows of the transformed filter, those of all groups counted together."""
        return math.prod(part.stop - part.start for part in (self.groups, self.phases, self.channels))


class Box(NamedTuple):
    """A chunk: a residue per axis, images [first, stop), and tiles per axis."""

    residues: tuple[int, ...]
    images: slice
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class TiledPlanner:
    """Tiles of the output, transformed, multiplied point by point with the transformed filter, and transformed back.

    fprop and dgrad are correlations, Y = Aᵀ[(G·W) ∘ (Bᵀ·X)]; wgrad is the transposed algorithm,
    DW = Gᵀ[(Bᵀ·X)ᵀ(A·DY)], whose product sums over tiles. Strides make phases, which act as more channels of x;
    dilation makes residues, which act as more images. `threads` of the CPU take the chunks in turn, each with buffers
    of its own.
    """

    case: Case
    family: str
    threads: int = 1

    @cached_property
    def tiling(self) -> Tiling:
        """The tiles chosen.

        Raises:
            UnsupportedError: the case has a `reason`.
        """
        found = best_tiling(self.case, self.family)
        if found is None:
            raise UnsupportedError(reason(self.case, self.family) or "")
        return found

    @property
    def transform(self) -> Transform:
        """The tile's transform."""
        return self.tiling.transform

    @property
    def algorithm(self) -> str:
        """The resolved name, see `Tiling.name`."""
        return self.tiling.name

    @property
    def accuracy(self) -> float:
        """The tier that it keeps in fp32, as a relative L2 error."""
        return self.tiling.accuracy

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """The axes, split."""
        return tuple(map(Split, self.case.problem.axes))

    @cached_property
    def axes(self) -> tuple[TileAxis, ...]:
        """The axes of the correlation."""
        return correlation(self.case)

    @property
    def phases(self) -> int:
        """Phases of all axes together."""
        return math.prod(split.phases for split in self.splits)

    @property
    def residues(self) -> int:
        """Residues of all axes together."""
        return math.prod(split.residues for split in self.splits)

    @property
    def deepens(self) -> bool:
        """Whether x has phases that lie side by side in it."""
        return self.phases > 1 and all(split.axis.dilation == 1 for split in self.splits)

    @property
    def leaves_gaps(self) -> bool:
        """Whether dx has elements that no tile writes, since no tap reaches them."""
        return any(
            split.axis.input
            > sum(
                len(range(*split.x(f, residue).window(axis.writes_from, axis.outputs)[0].indices(axis.outputs)))
                for f in range(split.phases)
                for residue in range(split.residues)
            )
            for split, axis in zip(self.splits, self.axes, strict=True)
        )

    @property
    def channels(self) -> tuple[int, int]:
        """Channels, phases among them, that the correlation reads and writes; of wgrad those of x and of dy."""
        p = self.case.problem
        x, y = p.in_channels * self.phases, p.out_channels
        return (y, x) if self.case.conv_pass is ConvPass.DGRAD else (x, y)

    @property
    def points(self) -> int:
        """Products per tile, channel and filter."""
        return self.transform.points

    @property
    def filters(self) -> int:
        """Elements of the transformed filter per point: out_channels × channels of x of one group, phases included."""
        p = self.case.problem
        return p.out_channels * (p.in_channels // p.groups) * self.phases

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Tiles per axis."""
        return tuple(pieces(a.outputs, t.m) for a, t in zip(self.axes, self.transform.tiles, strict=True))

    @property
    def tiles(self) -> int:
        """Tiles of all images and residues."""
        return self.case.problem.batch * self.residues * math.prod(self.counts)

    @property
    def images_first(self) -> bool:
        """Whether a chunk takes the same tile of many images, so that it need not be cut from a strip.

        The other layouts have the channels outside the plane, and are turned in longer runs.
        """
        return self.case.layout is Layout.NHWC

    @cached_property
    def extent(self) -> tuple[int, ...]:
        """Images, and tiles per axis, of one chunk; at least one chunk a thread where there are as many tiles."""
        tiles = chunk_tiles(self.transform, size_of(self.case))
        images = self.case.problem.batch
        share = pieces(images * math.prod(self.counts), self.threads)
        budget = max(1, pieces(share, pieces(share, tiles) or 1))
        if self.images_first:
            *counts, images = chunk_extents((*self.counts, images), budget)
            return images, *counts
        return chunk_extents((images, *self.counts), budget)

    @cached_property
    def pieces(self) -> list[list[Piece]]:
        """The cuts of each axis."""
        return [list(self._cut(place)) for place in range(len(self.axes))]

    def _cut(self, place: int) -> Iterator[Piece]:
        axis, tile, most = self.axes[place], self.transform.tiles[place], self.extent[1 + place]
        whole_input, _, whole_output = self.transform.unit(place)
        for first in range(0, self.counts[place], most):
            tiles = min(most, self.counts[place] - first)
            reads = (tiles - 1) * tile.m + tile.reads
            low, high, outputs = 0, reads, tile.m
            if tiles == 1 and not whole_input:
                low, high = (min(max(edge - first * tile.m, 0), reads) for edge in axis.inside)
                low, high = (low, high) if low < high else (0, 1)  # a zero
            if tiles == 1 and not whole_output:
                outputs = min(tile.m, axis.outputs - first * tile.m)
            yield Piece(first, tiles, low, high, outputs)

    def boxes(self) -> list[Box]:
        """The chunks, in order."""
        residues = list(itertools.product(*(range(split.residues) for split in self.splits)))
        batch, size = self.case.problem.batch, self.extent[0]
        images = [slice(first, min(first + size, batch)) for first in range(0, batch, size)]
        return [Box(*each) for each in itertools.product(residues, images, itertools.product(*self.pieces))]

    @cached_property
    def chunks(self) -> int:
        """Number of chunks."""
        images = pieces(self.case.problem.batch, self.extent[0])
        return self.residues * images * math.prod(map(len, self.pieces))

    @property
    def workers(self) -> int:
        """Threads that get a chunk, at least one."""
        return max(1, min(self.threads, self.chunks))

    @property
    def filter_shape(self) -> tuple[int, int]:
        """Rows and columns of the transformed filter per point and group: so that tiles @ filter is the product.

        fprop (phases × channels of x, channels of y), dgrad and wgrad (channels of y, phases × channels of x).
        """
        p = self.case.problem
        x, y = self.phases * (p.in_channels // p.groups), p.out_channels // p.groups
        return (x, y) if self.case.conv_pass is ConvPass.FPROP else (y, x)

    @cached_property
    def blocks(self) -> list[Block]:
        """The filters in parts of neighbouring rows: some rows of one phase of one group, or all of some groups."""
        p, (rows, columns) = self.case.problem, self.filter_shape
        fprop = self.case.conv_pass is ConvPass.FPROP
        phases, channels = (self.phases, rows // self.phases) if fprop else (1, rows)
        budget = max(1, BLOCK_BYTES // (self.filter_elements * columns * self.case.dtype.itemsize))
        if rows <= budget and p.groups >= self.threads:
            groups = min(budget // rows, pieces(p.groups, self.threads))
            return [Block(g, slice(0, phases), slice(0, channels), g.start * rows) for g in slices(p.groups, groups)]
        size = min(budget, pieces(channels, max(1, self.threads // phases)))
        return [
            Block(slice(g, g + 1), slice(f, f + 1), c, (g * phases + f) * channels + c.start)
            for g, f, c in itertools.product(range(p.groups), range(phases), slices(channels, size))
        ]

    @property
    def block_elements(self) -> int:
        """Most elements of a block on its way."""
        return self.filter_elements * max(self.slot(block.rows * self.filter_shape[1]) for block in self.blocks)

    def slot(self, elements: int) -> int:
        """Elements to keep for so many in a row of rows: a cache line more where rows would lie whole pages apart.

        A product with a small matrix reads a column of such rows, which would all fall into the same few places of a
        cache.
        """
        size = self.case.dtype.itemsize
        return elements + (LINE_BYTES // size if elements * size % PAGE_BYTES == 0 else 0)

    @property
    def filter_slot(self) -> int:
        """Elements kept per point of a transformed filter."""
        return self.slot(self.filters)

    @property
    def filter_elements(self) -> int:
        """Most elements per pair of channels that a filter takes on its way, before the last step."""
        taps = math.prod(tile.r for tile in self.transform.tiles)
        return max([taps, *(step.before * step.rows * step.after for step in self.transform.filter()[:-1])])

    @property
    def added_points(self) -> int:
        """Points whose products wgrad adds at once."""
        return max(1, min(self.points, BLOCK_BYTES // (self.filters * self.case.dtype.itemsize)))

    def lengths(self, cut: tuple[Piece, ...]) -> tuple[int, ...]:
        """Elements per axis of one tile of a chunk that are transformed."""
        return tuple(
            piece.high - piece.low if piece.tiles == 1 else tile.reads
            for piece, tile in zip(cut, self.transform.tiles, strict=True)
        )

    def work(self) -> Work:
        """Both transforms, the product and the inverse."""
        from convbench.backends.cpu.tiled_work import work

        return work(self)

    @cached_property
    def shapes(self) -> Counter[tuple[Piece, ...]]:
        """How many chunks of one residue and set of images have the same cut, wherever they begin."""
        found: Counter[tuple[Piece, ...]] = Counter()
        kinds = [Counter(piece._replace(first=0) for piece in cut) for cut in self.pieces]
        for each in itertools.product(*(kind.items() for kind in kinds)):
            found[tuple(piece for piece, _ in each)] += math.prod(count for _, count in each)
        return found

    @cached_property
    def buffer(self) -> int:
        """Elements of one buffer: the most that a chunk takes on its way, channels included."""
        read, written = self.channels
        images, most = min(self.extent[0], self.case.problem.batch), 0
        steps = math.prod(self.case.problem.stride)
        for cut in self.shapes:
            tiles = images * math.prod(piece.tiles for piece in cut)
            ahead = [math.prod(self.lengths(cut)), *map(_result, self.transform.forward(self.lengths(cut)))]
            outputs = [piece.outputs for piece in cut]
            back = [math.prod(outputs), self.points, *map(_result, self.transform.inverse(outputs))]
            if self.deepens:
                outer = strip_of_outputs(cut) if self.case.conv_pass is ConvPass.DGRAD else strip_elements(cut)
                most = max(most, images * outer * self.case.problem.in_channels * steps)
            most = max(most, self.slot(tiles * read) * max(ahead), self.slot(tiles * written) * max(back),
                       images * read * strip_elements(cut), images * written * strip_of_outputs(cut))  # fmt: skip
        return most

    @property
    def buffers(self) -> int:
        """Buffers per thread: a transform reads one and writes the other; wgrad holds transformed tiles meanwhile."""
        return 3 if self.case.conv_pass is ConvPass.WGRAD else 2

    @property
    def transient_bytes(self) -> int:
        """Nothing: all buffers are kept."""
        return 0

    @property
    def workspace_bytes(self) -> int:
        """Transformed filters (in wgrad one per thread, to add to), matrices, and the buffers of each thread."""
        each = self.buffers * self.buffer + 2 * self.block_elements
        filters = self.points * self.filter_slot
        if self.case.conv_pass is ConvPass.WGRAD:
            each += filters + self.added_points * self.filter_slot
            filters = 0
        return (filters + self.workers * each) * self.case.dtype.itemsize + self._matrix_bytes

    @property
    def _matrix_bytes(self) -> int:
        tiles = self.transform.tiles
        steps = [
            *self.transform.forward([tile.reads for tile in tiles]),
            *self.transform.filter(),
            *self.transform.inverse([tile.m for tile in tiles]),
        ]
        return sum(step.rows * step.columns for step in steps) * self.case.dtype.itemsize


def strip_elements(cut: tuple[Piece, ...]) -> int:
    """Elements per image and channel of what the tiles of a chunk read."""
    return math.prod(piece.high - piece.low for piece in cut)


def strip_of_outputs(cut: tuple[Piece, ...]) -> int:
    """Outputs per image and channel of a chunk."""
    return math.prod(piece.tiles * piece.outputs for piece in cut)


def _result(step: Step) -> int:
    return step.before * step.rows * step.after
