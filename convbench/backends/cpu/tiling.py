"""What Winograd's algorithm does for a case: tile sizes, chunks, work and memory, without NumPy."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from convbench.backends.cpu.bilinear import MAX_TILE, winograd
from convbench.backends.cpu.planner import chunk_extents, pieces
from convbench.errors import UnsupportedError
from convbench.problem import Case, ConvPass
from convbench.work import Phase, Work, epilogue_flops

MAX_GROWTH = 120.0
"""Most that a tile may round worse than a plain sum of products; fp32 results are meant to stay within 1e-5 in the
L2 norm.

It admits F(6, 3) and F(4, 5) on two axes (growth 114), F(4, 3) on three (116) and F(4, 7) on one (35), and leaves out
F(7, 3) on two (806): benchmarks/winograd.py prints the errors.
"""
CHUNK_TILES = 128
"""Tiles per product that are aimed at: long enough for a fast product, within CHUNK_BYTES."""
CHUNK_BYTES = (2 << 20, 16 << 20)
"""Least and most bytes of one thread's transformed tiles and products; wgrad, which sums over the tiles of a chunk and
adds the whole filter once per chunk, takes twice the tiles and bytes."""
FILTER_BYTES = 64 << 20
"""Largest transformed filter: tiles that make it larger are left out."""
BLOCK_BYTES = 1 << 20
"""Filter elements transformed at once, and products added at once in wgrad."""
ELEMENT_COST = 15
FILTER_COST = 30
"""What tile sizes are chosen by: passing one element of a tile through one copy or transform, and transforming and
reading one element of the filter, in multiply-adds of the product. Rough: from the order of size of a copy's and a
product's rates on an AVX-512 server, not fitted."""


@dataclass(frozen=True, slots=True)
class TiledAxis:
    """One axis of a stride-1 correlation cut in tiles: output q reads inputs q − before to q − before + taps − 1.

    dgrad is one too, of dy with the flipped filter: its outputs are dx, and its padding is taps − 1 less the problem's.
    """

    outputs: int
    inputs: int
    before: int
    taps: int
    m: int = 1

    @property
    def tile(self) -> int:
        """Inputs that the m outputs of a tile read, which is also its number of products."""
        return self.m + self.taps - 1

    @property
    def count(self) -> int:
        """Tiles; the last may be partial."""
        return pieces(self.outputs, self.m)


def reason(case: Case) -> str | None:
    """Why Winograd's algorithm cannot do the case, or None if it can."""
    p = case.problem
    for name, values in (("stride", p.stride), ("dilation", p.dilation)):
        if set(values) != {1}:
            return f"winograd is for {name} 1, not {'×'.join(map(str, values))}"
    if p.groups != 1:
        return f"winograd is for one group, not {p.groups}"
    if tile_sizes(correlation(case), p.batch, *channels(case), case.dtype.itemsize) is None:
        taps, outputs = ("×".join(map(str, values)) for values in (p.filter_size, _outputs(case)))
        return (
            f"no winograd tile saves multiplications on {taps} taps and {outputs} outputs "
            f"with a growth of errors up to {MAX_GROWTH:g} and a filter up to {FILTER_BYTES >> 20} MiB"
        )
    return None


def _outputs(case: Case) -> tuple[int, ...]:
    return tuple(axis.outputs for axis in correlation(case))


def channels(case: Case) -> tuple[int, int]:
    """Channels that the correlation reads and writes; of wgrad, which is fprop's transposed, those of x and dy."""
    p = case.problem
    return (p.out_channels, p.in_channels) if case.conv_pass is ConvPass.DGRAD else (p.in_channels, p.out_channels)


def correlation(case: Case) -> tuple[TiledAxis, ...]:
    """The axes, in tiles of one output; wgrad tiles dy and reads x as fprop does."""
    if case.conv_pass is ConvPass.DGRAD:
        return tuple(TiledAxis(a.input, a.output, a.reach - a.before, a.filter) for a in case.problem.axes)
    return tuple(TiledAxis(a.output, a.input, a.before, a.filter) for a in case.problem.axes)


@lru_cache(maxsize=4096)
def tile_sizes(
    axes: tuple[TiledAxis, ...], batch: int, read: int, written: int, itemsize: int
) -> tuple[int, ...] | None:
    """Tile sizes m of least estimated time, within MAX_GROWTH and FILTER_BYTES; None where none saves products."""
    best: tuple[int, tuple[int, ...]] | None = None
    options = [_options(axis) for axis in axes]
    for sizes in itertools.product(*options):
        tiled = [TiledAxis(a.outputs, a.inputs, a.before, a.taps, m) for a, m in zip(axes, sizes, strict=True)]
        points = math.prod(axis.tile for axis in tiled)
        tiles = math.prod(axis.count for axis in tiled)
        if points * tiles >= math.prod(axis.outputs * axis.taps for axis in tiled):
            continue
        if points * read * written * itemsize > FILTER_BYTES:
            continue
        if math.prod(winograd(axis.m, axis.taps).growth for axis in tiled) > MAX_GROWTH:
            continue
        copies = ELEMENT_COST * (len(axes) + 1) * (read + written)
        cost = points * (batch * tiles * (read * written + copies) + FILTER_COST * read * written)
        best = min(filter(None, (best, (cost, sizes))))
    return best and best[1]


def _options(axis: TiledAxis) -> range:
    """Tile sizes to try; a filter of one tap gains nothing from tiles."""
    return range(1, 2 if axis.taps == 1 else 1 + max(1, min(axis.outputs, MAX_TILE + 1 - axis.taps)))


@dataclass(frozen=True)
class WinogradPlanner:
    """Tiles of the output, transformed, multiplied point by point with the transformed filter, and transformed back.

    fprop and dgrad are correlations, Y = Aᵀ[(G·W) ∘ (Bᵀ·X)]; wgrad is the transposed algorithm,
    DW = Gᵀ[(Bᵀ·X)ᵀ(A·DY)], whose product sums over tiles. `threads` of the CPU take the chunks of tiles in turn, each
    with buffers of its own.
    """

    case: Case
    threads: int = 1

    @cached_property
    def channels(self) -> tuple[int, int]:
        """Channels read and written, see `channels`."""
        return channels(self.case)

    @cached_property
    def axes(self) -> tuple[TiledAxis, ...]:
        """The axes in the tiles that `tile_sizes` chose.

        Raises:
            UnsupportedError: the case has a `reason`.
        """
        axes = correlation(self.case)
        sizes = tile_sizes(axes, self.case.problem.batch, *self.channels, self.case.dtype.itemsize)
        why = reason(self.case)
        if why is not None or sizes is None:
            raise UnsupportedError(why or "")
        return tuple(TiledAxis(a.outputs, a.inputs, a.before, a.taps, m) for a, m in zip(axes, sizes, strict=True))

    @property
    def algorithm(self) -> str:
        """The resolved name: "winograd-4x3" where all axes have tiles of 4 and 3 taps, else one m×r per axis."""
        names = [f"{axis.m}x{axis.taps}" for axis in self.axes]
        return "-".join(["winograd", *(names[:1] if len(set(names)) == 1 else names)])

    @property
    def growth(self) -> float:
        """How much more than a plain sum of products the tile rounds, see `bilinear.Bilinear.growth`."""
        return math.prod(winograd(axis.m, axis.taps).growth for axis in self.axes)

    @property
    def points(self) -> int:
        """Products per tile, channel and filter."""
        return math.prod(axis.tile for axis in self.axes)

    @property
    def taps(self) -> int:
        """Elements of the filter per pair of channels."""
        return math.prod(axis.taps for axis in self.axes)

    @property
    def tiles(self) -> tuple[int, ...]:
        """Images, and tiles per axis."""
        return (self.case.problem.batch, *(axis.count for axis in self.axes))

    @cached_property
    def box(self) -> tuple[int, ...]:
        """Images, and tiles per axis, of one chunk; at least one chunk a thread where there are as many tiles."""
        per_tile = self.points * sum(self.channels) * self.case.dtype.itemsize
        scale = 2 if self.case.conv_pass is ConvPass.WGRAD else 1
        least, most = CHUNK_BYTES
        tiles = max(1, scale * min(max(CHUNK_TILES * per_tile, least), most) // per_tile)
        share = pieces(math.prod(self.tiles), self.threads)
        return chunk_extents(self.tiles, max(1, pieces(share, pieces(share, tiles) or 1)))

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return math.prod(pieces(extent, size) for extent, size in zip(self.tiles, self.box, strict=True))

    @property
    def workers(self) -> int:
        """Threads that get a chunk, at least one."""
        return max(1, min(self.threads, self.chunks))

    @property
    def block(self) -> int:
        """Channels read whose filters are transformed at once."""
        read, written = self.channels
        return max(1, min(read, BLOCK_BYTES // (self.taps * written * self.case.dtype.itemsize)))

    @property
    def added_points(self) -> int:
        """Points whose products wgrad adds at once."""
        filters = math.prod(self.channels) * self.case.dtype.itemsize
        return max(1, min(self.points, BLOCK_BYTES // filters))

    @property
    def buffer(self) -> int:
        """Elements of one buffer: the transformed tiles or the products of a chunk, whichever are more."""
        return self.points * math.prod(self.box) * max(self.channels)

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
        """Transformed filters (in wgrad one per thread, to add to), filter matrix, and the buffers of each thread."""
        read, written = self.channels
        each = self.buffers * self.buffer + self.taps * self.block * written
        filters = self.points * read * written
        if self.case.conv_pass is ConvPass.WGRAD:
            each += filters + self.added_points * read * written
            filters = 0
        return (filters + self.points * self.taps + self.workers * each) * self.case.dtype.itemsize

    @property
    def _images_and_tiles(self) -> int:
        return math.prod(self.tiles)

    def _forward_elements(self) -> tuple[int, int]:
        """Of Bᵀ over all axes, per tile and channel: multiply-adds, and elements read and written together."""
        moved = [axis for axis in self.axes if axis.m > 1 and axis.taps > 1]  # others have a unit matrix
        return sum(axis.tile for axis in moved) * self.points, 2 * len(moved) * self.points

    def _inverse_elements(self) -> tuple[int, int]:
        """The same of Aᵀ, first axis first, and of A, last axis first."""
        macs = moved = 0
        lengths = [axis.tile for axis in self.axes]
        for place, axis in enumerate(self.axes):
            if axis.taps == 1:
                continue
            before = math.prod(lengths)
            lengths[place] = axis.m
            macs += axis.tile * math.prod(lengths)
            moved += before + math.prod(lengths)
        return macs, moved

    def _strips(self) -> tuple[int, int]:
        """Elements per channel of all strips under the tiles, and of all strips of their outputs."""
        under = outputs = self.case.problem.batch
        for axis, size in zip(self.axes, self.box[1:], strict=True):
            under *= axis.m * axis.count + pieces(axis.count, size) * (axis.taps - 1)
            outputs *= axis.m * axis.count
        return under, outputs

    def work(self) -> Work:
        """Both transforms, the product and the inverse, from the shapes of the matrix products."""
        read, written = self.channels
        forward, inverse = self._forward_elements(), self._inverse_elements()
        under, outputs = self._strips()
        gathered = self.points * self._images_and_tiles
        if self.case.conv_pass is ConvPass.WGRAD:
            return Work((
                self._tile_phase("transform x", read, forward, under, gathered),
                self._tile_phase("transform dy", written, inverse, outputs, outputs),
                self._product(),
                self._filter_phase("inverse dw"),
            ))  # fmt: skip
        source, result = ("x", "y") if self.case.conv_pass is ConvPass.FPROP else ("dy", "dx")
        return Work((
            self._tile_phase(f"transform {source}", read, forward, under, gathered),
            self._filter_phase("transform w"),
            self._product(),
            self._tile_phase(f"inverse {result}", written, inverse, outputs, outputs, epilogue_flops(self.case)),
        ))  # fmt: skip

    def _tile_phase(
        self, name: str, channels: int, transform: tuple[int, int], strip: int, tiles: int, flops: int = 0
    ) -> Phase:
        """Copies through a strip and through tiles, and the products with the small matrices between."""
        count = self._images_and_tiles
        macs, moved = transform
        size = self.case.dtype.itemsize * channels
        half = (2 * (strip + tiles) + moved * count) * size // 2
        return Phase(name=name, flops=2 * macs * count * channels + flops, bytes_read=half, bytes_written=half,
                     footprint_bytes=2 * self.points * math.prod(self.box) * size,
                     launches=self.chunks * (2 + len(self.axes)))  # fmt: skip

    def _filter_phase(self, name: str) -> Phase:
        read, written = self.channels
        elements, size = read * written, self.case.dtype.itemsize
        inward, outward = (2 * self.taps + self.points), 2 * self.taps
        if self.case.conv_pass is not ConvPass.WGRAD:
            inward, outward = 2 * self.taps, self.taps + self.points
        return Phase(name=name, flops=2 * self.points * self.taps * elements, bytes_read=inward * elements * size,
                     bytes_written=outward * elements * size,
                     footprint_bytes=(self.points + self.taps) * self.block * written * size,
                     launches=2 * pieces(read, self.block))  # fmt: skip

    def _product(self) -> Phase:
        """One matrix product per point and chunk; wgrad adds those of later chunks, and the sums of the threads."""
        read, written = self.channels
        size, tiles = self.case.dtype.itemsize, self._images_and_tiles
        filters = self.points * read * written
        macs = filters * tiles
        sums = max(0, self.chunks - 1) if self.case.conv_pass is ConvPass.WGRAD else 0
        inward, outward = tiles * read * self.points, tiles * written * self.points
        if self.case.conv_pass is ConvPass.WGRAD:
            elements_read, elements_written = inward + outward + 2 * sums * filters, (self.chunks + sums) * filters
        else:
            elements_read, elements_written = inward + self.chunks * filters, outward
        groups = pieces(self.points, self.added_points) if self.case.conv_pass is ConvPass.WGRAD else 1
        footprint = self.points * math.prod(self.box) * (read + written) + filters
        return Phase(name="product", flops=2 * macs + sums * filters, bytes_read=elements_read * size,
                     bytes_written=elements_written * size, footprint_bytes=footprint * size,
                     launches=groups * (self.chunks + sums))  # fmt: skip
