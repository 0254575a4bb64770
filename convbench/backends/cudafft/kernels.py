"""The CUDA kernels of cudafft: which transforms they are compiled for, and how they are launched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

BANKS = 16
"""Complex numbers that shared memory reads or writes at a time, one from each of its 32 banks of 4 bytes twice."""
COMPLEX_BYTES = 8
PRODUCT_THREADS = 128
MAX_SPLIT_BLOCKS = 1 << 16
"""Enough to fill any GPU many times."""
MAX_GRID_Y = 65535
"""Most blocks along y of a grid (CUDA programming guide)."""

PLANES = (
    *((name, "<i8") for name in ("group", "image", "channel")),
    *((name, "<i4") for name in ("planes", "columns")),
    *((name, "<i4", 3) for name in ("tiles", "phases", "first")),
    ("pad_", "<i4"),
)
"""struct Planes of transform.cu, as NumPy's dtype takes it: a tensor as a matrix of planes per group.

`group`, `image`, `channel` are its strides in elements. Plane q of a group has row q // columns, an image and a tile
per axis, and column q % columns, a channel and a phase per axis, the last axis fastest; `planes` are those of a group.
`first` is where the table of offsets of each axis begins, the last `ndim` of three: [tile·phases + phase][points of the
axis] offsets in elements from where image and channel begin, negative where nothing lies.
"""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A real transform of `ndim` axes that transform.cu is compiled for.

    Attributes:
        ndim: axes.
        digits: points that are in a thread's registers at a time: of each axis or, of one axis, two whose product are
            its points.
        planes_per_block: planes that a block transforms, neighbours in the spectra: 4 fill a sector of 32 bytes.
        threads: threads of a block.
        blocks: blocks of a multiprocessor that the registers must suffice for.
        fused_blocks: the same of the kernel that transforms both ways.
    """

    ndim: int
    digits: tuple[int, ...]
    planes_per_block: int
    threads: int
    blocks: int
    fused_blocks: int

    @property
    def size(self) -> tuple[int, ...]:
        """Points of each axis."""
        return (prod(self.digits),) if self.ndim == 1 else self.digits

    @property
    def name(self) -> str:
        """As algorithms are named: "256", "16x16"."""
        return "x".join(map(str, self.size))

    @property
    def points(self) -> int:
        """Points of a plane."""
        return prod(self.digits)

    @property
    def bins(self) -> int:
        """Complex numbers of a plane's spectrum: of the first digit half, and the bin in the middle."""
        first, *rest = self.digits
        return (first // 2 + 1) * prod(rest)

    @cached_property
    def strides(self) -> tuple[int, int, int]:
        """From bin to bin along the first, the middle and the last digit in shared memory, in complex numbers.

        Threads of consecutive columns, or of consecutive planes and then bins of the first digit, meet different banks.
        """
        *_, last = self.digits
        column = self.planes_per_block + (max(1, BANKS // last) if self.ndim < 3 else 1)
        row = last * column
        first = row * (self.digits[1] if self.ndim == 3 else 1)
        return first + (self.planes_per_block - first) % BANKS, row, column

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of each kernel: the bins of its planes, and the twiddles between two digits."""
        first, last = self.digits[0], self.digits[-1]
        twiddles = last * (first // 2 + 1) if self.ndim == 1 else 0
        return COMPLEX_BYTES * ((first // 2 + 1) * self.strides[0] + twiddles)

    def grid(self, planes: int, groups: int) -> tuple[int, int]:
        """Blocks of a launch."""
        return -(-planes // self.planes_per_block), groups

    def frequencies(self) -> NDArray[Any]:
        """Which frequency of each axis a bin is, of shape (bins, ndim)."""
        import numpy as np

        kept = (self.digits[0] // 2 + 1, *self.digits[1:])
        digits = np.indices(kept).reshape(len(kept), -1)
        if self.ndim == 1:
            digits = digits[:1] + self.digits[0] * digits[1:]
        return digits.T


def _transforms() -> tuple[Transform, ...]:
    """Digits: few, and bins kept twice few too. Planes: as wide a store as leaves shared memory for several blocks."""
    table = [
        (1, (8, 2), 32, 160, 6, 6),
        (1, (16, 2), 32, 160, 6, 6),
        (1, (16, 4), 32, 160, 6, 6),
        (1, (32, 4), 32, 192, 4, 4),
        (1, (32, 8), 16, 160, 5, 5),
        (1, (32, 16), 8, 160, 5, 4),
        (1, (64, 16), 8, 160, 3, 3),
        (2, (8, 8), 16, 128, 8, 8),
        (2, (16, 16), 16, 160, 5, 4),
        (2, (32, 32), 8, 160, 3, 3),
        (2, (64, 64), 4, 160, 2, 2),
        (3, (8, 8, 8), 8, 320, 3, 3),
        (3, (16, 16, 16), 4, 288, 2, 2),
    ]
    return tuple(
        Transform(ndim=ndim, digits=digits, planes_per_block=planes, threads=threads, blocks=blocks, fused_blocks=fused)
        for ndim, digits, planes, threads, blocks, fused in table
    )


TRANSFORMS = _transforms()
"""All that there are, by axes and then by size."""
KERNELS = ("forward", "inverse", "fused")
"""The kernels of transform.cu."""


@cache
def source() -> str:
    """The CUDA source of the transforms."""
    return (files("convbench.backends.cudafft") / "kernels" / "transform.cu").read_text(encoding="utf-8")


@cache
def product_source() -> str:
    """The CUDA source of the products of few channels: kernels fprop, dgrad and wgrad."""
    return (files("convbench.backends.cudafft") / "kernels" / "product.cu").read_text(encoding="utf-8")


def options(transform: Transform) -> tuple[str, ...]:
    """What NVRTC is told beside `source()`."""
    first, *middle, last = transform.digits
    values = {
        "AXES": transform.ndim,
        "FIRST": first,
        "MIDDLE": prod(middle),
        "LAST": last,
        "PLANES": transform.planes_per_block,
        "THREADS": transform.threads,
        "BLOCKS": transform.blocks,
        "FUSED_BLOCKS": transform.fused_blocks,
        **dict(zip(("STRIDE_FIRST", "STRIDE_MIDDLE", "STRIDE_LAST"), transform.strides, strict=True)),
    }
    return ("-std=c++17", *(f"-D{name}={value}" for name, value in values.items()))


def product_options() -> tuple[str, ...]:
    """What NVRTC is told beside `product_source()`."""
    return ("-std=c++17", f"-DTHREADS={PRODUCT_THREADS}")


def split_grid(count: int) -> int:
    """Blocks of a launch of `split` for so many numbers; threads take several where they are very many."""
    return max(1, min(-(-count // PRODUCT_THREADS), MAX_SPLIT_BLOCKS))


def product_grid(name: str, matrices: int, rows: int, channels: int, filters: int) -> tuple[int, int]:
    """Blocks of a launch of fprop, dgrad or wgrad: a thread for each row of the result, of wgrad a warp each result."""
    if name == "wgrad":
        return -(-matrices * 32 // PRODUCT_THREADS), min(channels * filters, MAX_GRID_Y)
    width = min(1 << (rows - 1).bit_length(), PRODUCT_THREADS)
    return -(-matrices * width // PRODUCT_THREADS), min(-(-rows // width), MAX_GRID_Y)
