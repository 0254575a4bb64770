"""Which tiles an algorithm on transformed tiles takes for a case: accuracy and estimated time, without NumPy."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from convbench.backends.cpu.bilinear import MAX_TILE
from convbench.backends.cpu.split import Split
from convbench.backends.cpu.transforms import Dft, Step, Tile, Transform, Winograd
from convbench.backends.cpu.windows import pieces
from convbench.problem import Case, ConvPass

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_GROWTH = {1e-6: 6.0, 1e-5: 100.0, 1e-4: 1000.0}
"""Most that a tile may round worse than a plain sum of products to stay within a relative L2 error in fp32.

Of F(m, 3) on two axes the first admits m = 2, the second m up to 6, the third m = 7 (errors: benchmarks/tiles.py).
"""
FEW_FILTERS, FEW_SHARE = 1024, 0.4
"""wgrad of up to so many pairs of channels gets this share of it: its few results are long sums in one chain."""
FAMILIES = {"winograd-1e-6": 1e-6, "winograd": 1e-5, "winograd-1e-4": 1e-4, "dft": 1e-6}
"""The algorithms on transformed tiles, and the tier that each keeps."""
FILTER_BYTES = 128 << 20
"""Largest transformed filter: tiles that make it larger are left out."""
MAX_LENGTH = 96
"""Longest DFT by matrices: beyond it a fast transform takes less."""
MAX_OPTIONS = 12
"""Tile lengths tried per axis for the DFT."""

CHUNK_TILES = {Winograd: 128, Dft: 16}
"""Tiles of a chunk that are aimed at, within CHUNK_BYTES: long enough for a fast product, few enough for a cache."""
CHUNK_BYTES = (2 << 20, 16 << 20)
"""Least and most bytes of one thread's transformed tiles and products; wgrad, which sums over the tiles of a chunk and
adds the whole filter once per chunk, takes twice the tiles and bytes."""

# What tile sizes are chosen by: seconds on one thread, fitted (non-negative least squares of relative errors, which
# have a standard deviation of 16 %) to 240 measured plans on an AVX-512 server; benchmarks/tiles.py prints the fit of
# this machine. Only their ratios matter, and nothing that is reported rests on them.
PRODUCT_S = 0.024e-9
"""A multiply-add of the product."""
TRANSFORM_S = 0.031e-9
"""A multiply-add of a product with a small matrix, by which tiles are transformed."""
MOVE_S = 0.012e-9
"""An element that it reads or writes."""
COPY_S = 0.22e-9
"""An element copied between a tensor and tiles."""
FILTER_MOVE_S = 0.23e-9
"""An element read or written by a step of the filter's transform."""
FILTER_READ_S = 0.28e-9
"""An element of the transformed filter that a chunk reads."""


@dataclass(frozen=True, slots=True)
class TileAxis:
    """One axis of a stride-1 correlation: output i reads the elements i to i + taps − 1 that begin at `reads_from`.

    Elements [inside[0], inside[1]) exist, others are zero. Output 0 is written to `writes_from`. Both are indices of
    `Split`. dgrad is one too, of dy with the flipped filter.
    """

    outputs: int
    taps: int
    inside: tuple[int, int]
    reads_from: int = 0
    writes_from: int = 0

    @property
    def wrap(self) -> int:
        """Elements by which a cyclic transform of all that is read may be shorter: their places are zero at both ends.

        Reads beyond its end then wrap around onto zeros, and what is beyond its end is zero itself.
        """
        reads = self.outputs + self.taps - 1
        return max(0, min(self.inside[0], reads - self.inside[1]))


def correlation(case: Case) -> tuple[TileAxis, ...]:
    """The axes of the correlation that is tiled; wgrad tiles dy and reads x as fprop does."""
    found = []
    for split in map(Split, case.problem.axes):
        low, high = split.read()
        if case.conv_pass is not ConvPass.DGRAD:
            found.append(TileAxis(split.outputs, split.taps, (low, high)))
            continue
        first = low - (split.taps - 1)
        last = high - low + split.taps - 1
        inside = (min(max(0, -first), last), min(max(0, split.outputs - first), last))
        found.append(TileAxis(high - low, split.taps, inside, first, low))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Size:
    """What there is to do, beside the axes: images (residues among them), channels, and filters per point.

    `sums` says that the product sums over tiles, as in wgrad.
    """

    images: int
    read: int
    written: int
    filters: int
    itemsize: int
    sums: bool


@dataclass(frozen=True, slots=True)
class Tiling:
    """A transform, the tier that it keeps, and its estimated seconds on one thread."""

    transform: Transform
    accuracy: float
    seconds: float

    @property
    def name(self) -> str:
        """As in "winograd-4x3" (m×r) where all axes have the same tiles, else one m×r per axis; "dft-20" by length."""
        tiles = self.transform.tiles
        if isinstance(self.transform, Winograd):
            names, word = [f"{tile.m}x{tile.r}" for tile in tiles], "winograd"
        else:
            names, word = [str(tile.length) for tile in tiles], "dft"
        return "-".join([word, *(names[:1] if len(set(names)) == 1 else names)])


def best_tiling(case: Case, family: str) -> Tiling | None:
    """Tiles of least estimated time within the accuracy of `family`, or None where there are none."""
    return _best(correlation(case), size_of(case), family)


def size_of(case: Case) -> Size:
    """What there is to do in a case."""
    p = case.problem
    splits = list(map(Split, p.axes))
    phases = math.prod(split.phases for split in splits)
    x, y = p.in_channels * phases, p.out_channels
    read, written = (y, x) if case.conv_pass is ConvPass.DGRAD else (x, y)
    images = p.batch * math.prod(split.residues for split in splits)
    filters = p.out_channels * (p.in_channels // p.groups) * phases
    return Size(images, read, written, filters, case.dtype.itemsize, case.conv_pass is ConvPass.WGRAD)


@lru_cache(maxsize=4096)
def _best(axes: tuple[TileAxis, ...], size: Size, family: str) -> Tiling | None:
    if any(axis.outputs < 1 for axis in axes):
        return None
    accuracy = FAMILIES[family]
    best: Tiling | None = None
    for transform in transforms(axes, size, family):
        if transform.points * size.filters * size.itemsize > FILTER_BYTES:
            continue
        estimate = seconds(transform, axes, size)
        if best is None or estimate < best.seconds:
            best = Tiling(transform, accuracy, estimate)
    return best


def transforms(axes: tuple[TileAxis, ...], size: Size, family: str) -> Iterator[Transform]:
    """What a family may take."""
    return _dfts(axes) if family == "dft" else _winograds(axes, _most_growth(size, family))


def _most_growth(size: Size, family: str) -> float:
    few = size.sums and size.filters <= FEW_FILTERS
    return MAX_GROWTH[FAMILIES[family]] * (FEW_SHARE if few else 1.0)


def _winograds(axes: tuple[TileAxis, ...], most_growth: float) -> Iterator[Winograd]:
    """Those that save products and round well enough."""
    for sizes in itertools.product(*map(_winograd_sizes, axes)):
        transform = Winograd(tuple(Tile(m, a.taps, m + a.taps - 1) for a, m in zip(axes, sizes, strict=True)))
        tiles = math.prod(pieces(a.outputs, m) for a, m in zip(axes, sizes, strict=True))
        if transform.points * tiles >= math.prod(a.outputs * a.taps for a in axes):
            continue
        if transform.growth <= most_growth:
            yield transform


def _winograd_sizes(axis: TileAxis) -> range:
    """A filter of one tap gains nothing from tiles."""
    return range(1, 2 if axis.taps == 1 else 1 + max(1, min(axis.outputs, MAX_TILE + 1 - axis.taps)))


def _dfts(axes: tuple[TileAxis, ...]) -> Iterator[Dft]:
    if math.prod(axis.taps for axis in axes) > 1:
        for tiles in itertools.product(*map(_dft_tiles, axes)):
            yield Dft(tiles)


def _dft_tiles(axis: TileAxis) -> list[Tile]:
    """Tiles that cut the outputs evenly; a single one may wrap."""
    found = []
    for count in range(1, axis.outputs + 1):
        m = pieces(axis.outputs, count)
        length = m + axis.taps - 1 - (axis.wrap if count == 1 else 0)
        if length <= MAX_LENGTH and pieces(axis.outputs, m) == count:
            found.append(Tile(m, axis.taps, length))
        if len(found) == MAX_OPTIONS or m == 1:
            break
    return found


def chunk_tiles(transform: Transform, size: Size) -> int:
    """Tiles of a chunk, at most."""
    per_tile = transform.points * (size.read + size.written) * size.itemsize
    least, most = CHUNK_BYTES
    scale = 2 if size.sums else 1
    return max(1, scale * min(max(CHUNK_TILES[type(transform)] * per_tile, least), most) // per_tile)


def seconds(transform: Transform, axes: tuple[TileAxis, ...], size: Size) -> float:
    """Of copies, transforms and products on one thread."""
    tiles = size.images * math.prod(pieces(a.outputs, t.m) for a, t in zip(axes, transform.tiles, strict=True))
    # What is outside the tensor is hardly ever transformed: tiles at the edges are pruned.
    inside = math.prod((a.inside[1] - a.inside[0]) / (a.outputs + a.taps - 1) for a in axes)
    reads, writes = ([getattr(tile, name) for tile in transform.tiles] for name in ("reads", "m"))
    each = size.read * inside * _transform_seconds(transform.forward(reads), math.prod(reads))
    each += size.written * _transform_seconds(transform.inverse(writes), math.prod(writes))
    filters = transform.points * size.filters
    moved = sum(step.moved for step in transform.filter())
    total = tiles * (each + filters * PRODUCT_S) + moved * size.filters * FILTER_MOVE_S
    return total + pieces(tiles, chunk_tiles(transform, size)) * filters * FILTER_READ_S


def _transform_seconds(steps: list[Step], copied: int) -> float:
    """Per tile and channel."""
    return copied * COPY_S + sum(step.macs * TRANSFORM_S + step.moved * MOVE_S for step in steps)


def reason(case: Case, family: str) -> str | None:
    """Why no tiles do the case, or None if some do."""
    if best_tiling(case, family) is not None:
        return None
    axes = correlation(case)
    taps, outputs = ("×".join(map(str, values)) for values in zip(*((a.taps, a.outputs) for a in axes), strict=True))
    if family == "dft":
        return (
            f"no DFT of at most {MAX_LENGTH} points, of more than one tap and with a filter of at most "
            f"{FILTER_BYTES >> 20} MiB has {taps} taps and {outputs} outputs"
        )
    # The same words for every tier where none has a tile, so that they are told once.
    loosest = max(FAMILIES, key=lambda name: FAMILIES[name])
    growth = f"a growth of errors up to {_most_growth(size_of(case), family):g} and "
    return (
        f"no winograd tile saves multiplications on {taps} taps and {outputs} outputs with "
        f"{growth if best_tiling(case, loosest) else ''}a filter up to {FILTER_BYTES >> 20} MiB"
    )
