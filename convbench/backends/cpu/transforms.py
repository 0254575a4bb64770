"""Transforms of tiles as chains of products with small matrices: Winograd's, and the DFT with three products a bin.

Both are bilinear algorithms y = inverse[forward(x) ∘ filter(w)] on the tiles of a correlation, and both are separable:
one matrix per axis, applied to all tiles at once. Transposed, the same matrices give the gradient of the filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from convbench.backends.cpu.bilinear import winograd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Step(NamedTuple):
    """A product with a matrix (rows, columns) on one axis: (before, columns, after) becomes (before, rows, after)."""

    axis: int
    before: int
    rows: int
    columns: int
    after: int

    @property
    def macs(self) -> int:
        """Multiply-adds per tile and channel."""
        return self.before * self.rows * self.columns * self.after

    @property
    def moved(self) -> int:
        """Elements read and written per tile and channel."""
        return self.before * (self.rows + self.columns) * self.after


def transposed(steps: Sequence[Step]) -> list[Step]:
    """The steps of the transposed matrices, in the opposite order."""
    return [step._replace(rows=step.columns, columns=step.rows) for step in reversed(steps)]


class Tile(NamedTuple):
    """The tile of one axis: m outputs of a correlation with r taps read m + r − 1 elements, on a transform of `length`.

    `length` is shorter than what a tile reads where reads beyond it wrap around onto zeros.
    """

    m: int
    r: int
    length: int

    @property
    def reads(self) -> int:
        """Elements that the outputs of a tile read."""
        return self.m + self.r - 1


@dataclass(frozen=True, slots=True)
class Transform:
    """A tile's transform; `tiles` is one per axis, outermost first."""

    tiles: tuple[Tile, ...]

    # A spectrum along axis i has `bins` i; the real part and the imaginary part are `pairs` on axes whose input is
    # complex, and leave an axis as `parts`: two, or three operands of a product on the first axis.

    def bins(self, axis: int) -> int:
        """Extent of the transformed axis."""
        raise NotImplementedError

    def parts(self, axis: int) -> int:
        """Real numbers per bin when the axis has been transformed."""
        raise NotImplementedError

    def pairs(self, axis: int) -> int:
        """Real numbers per element before the axis is transformed."""
        raise NotImplementedError

    def unit(self, axis: int) -> tuple[bool, bool, bool]:
        """Whether the matrices of an axis, forward, of the filter and inverse, are unit matrices and left out."""
        raise NotImplementedError

    @property
    def points(self) -> int:
        """Real products per tile, channel and filter."""
        return self.parts(0) * math.prod(map(self.bins, range(len(self.tiles))))

    def forward(self, lengths: Sequence[int]) -> list[Step]:
        """The steps that transform so many elements per axis, last axis first."""
        return self._steps(lengths, 0)

    def filter(self) -> list[Step]:
        """The same of the filter's taps."""
        return self._steps([tile.r for tile in self.tiles], 1)

    def inverse(self, lengths: Sequence[int]) -> list[Step]:
        """The steps that give so many outputs per axis, first axis first."""
        return transposed(self._steps(lengths, 2))

    def _steps(self, lengths: Sequence[int], which: int) -> list[Step]:
        return [
            Step(axis, math.prod(lengths[:axis]), self.parts(axis) * self.bins(axis), self.pairs(axis) * lengths[axis],
                 math.prod(map(self.bins, range(axis + 1, len(self.tiles)))))
            for axis in reversed(range(len(self.tiles)))
            if not self.unit(axis)[which]
        ]  # fmt: skip

    def matrices(self, axis: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Forward (parts·bins, pairs·reads), filter (parts·bins, pairs·r) and inverse (pairs·m, parts·bins), fp64."""
        raise NotImplementedError


class Winograd(Transform):
    """F(m, r) on each axis (bilinear.winograd)."""

    __slots__ = ()

    def bins(self, axis: int) -> int:
        """One point per element read."""
        return self.tiles[axis].reads

    def parts(self, axis: int) -> int:
        """Real throughout."""
        return 1

    pairs = parts

    def unit(self, axis: int) -> tuple[bool, bool, bool]:
        """F(1, r) and F(m, 1) are no transforms."""
        m, r, _ = self.tiles[axis]
        return m == 1 or r == 1, m == 1, r == 1

    @property
    def growth(self) -> float:
        """How much more than a plain sum of products a tile rounds, see `bilinear.Bilinear.growth`."""
        return math.prod(winograd(tile.m, tile.r).growth for tile in self.tiles)

    def matrices(self, axis: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Bᵀ, G and Aᵀ."""
        import numpy as np

        found = winograd(self.tiles[axis].m, self.tiles[axis].r)
        forward, taps, inverse = (
            np.array([[float(v) for v in row] for row in exact]) for exact in (found.bt, found.g, found.at)
        )
        return forward, taps, inverse


class Dft(Transform):
    """The DFT of real tiles; each complex product a bin is three real ones.

    With X = a + ib the spectrum of x and conj(W) = c + id that of the taps: k1 = c·(a + b), k2 = a·(d − c),
    k3 = b·(c + d); X·conj(W) = (k1 − k3) + i(k1 + k2). The sums are folded into the matrices of the first axis. The
    last axis is transformed first, from real input, and keeps half of its bins. On one axis bins without an imaginary
    part take one product.
    """

    __slots__ = ()

    def bins(self, axis: int) -> int:
        """All, or half of them on the last axis; on a single axis, the products that they take."""
        length = self.tiles[axis].length
        if axis < len(self.tiles) - 1:
            return length
        half = length // 2 + 1
        return 3 * half - 2 * self._real(length) if len(self.tiles) == 1 else half

    @staticmethod
    def _real(length: int) -> int:
        """Bins without an imaginary part: the first, and the last of an even length."""
        return 1 if length == 1 else 2 - length % 2

    def parts(self, axis: int) -> int:
        """Real and imaginary; three operands after the last step, on the first axis."""
        if len(self.tiles) == 1:
            return 1
        return 3 if axis == 0 else 2

    def pairs(self, axis: int) -> int:
        """Real on the last axis, complex on the others."""
        return 1 if axis == len(self.tiles) - 1 else 2

    def unit(self, axis: int) -> tuple[bool, bool, bool]:
        """None is."""
        return False, False, False

    def matrices(self, axis: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Cosines and sines; rows of one part after the other, columns in pairs (real, imaginary) of an element."""
        import numpy as np

        m, r, length = self.tiles[axis]
        last = axis == len(self.tiles) - 1
        bins = np.arange(length // 2 + 1 if last else length)

        def waves(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
            angles = 2 * np.pi / length * (np.outer(bins, np.arange(count)) % length)
            return np.cos(angles), np.sin(angles)

        def parts(real: NDArray[Any], imaginary: NDArray[Any], *, taps: bool) -> NDArray[Any]:
            if axis > 0:
                return np.concatenate([real, imaginary])
            if taps:
                return np.concatenate([real, imaginary - real, real + imaginary])
            return np.concatenate([real + imaginary, real, imaginary])

        def spectrum(count: int, sign: int, *, taps: bool) -> NDArray[Any]:
            cos, sin = waves(count)
            sin = sign * sin
            if last:
                return parts(cos, sin, taps=taps)
            real, imaginary = np.stack([cos, -sin], 2), np.stack([sin, cos], 2)
            return parts(real.reshape(len(bins), -1), imaginary.reshape(len(bins), -1), taps=taps)

        forward, filters = spectrum(self.tiles[axis].reads, -1, taps=False), spectrum(r, 1, taps=True)
        cos, sin = (wave.T / length for wave in waves(m))
        if last:  # the other half of the bins is the conjugate of this one
            twice = np.full(len(bins), 2.0)
            twice[0] = 1
            if length % 2 == 0:
                twice[-1] = 1
            cos, sin = cos * twice, sin * twice
        inverse = self._real_output(axis, cos, sin) if last else self._pairs_output(axis, cos, sin)
        if len(self.tiles) == 1:
            half, real = len(bins), [0, *([len(bins) - 1] if length % 2 == 0 and length > 1 else [])]
            # a + b meets c, and gives a·c where both are real
            drop = [part * half + place for part in (1, 2) for place in real]
            forward, filters = np.delete(forward, drop, 0), np.delete(filters, drop, 0)
            inverse = np.delete(inverse, drop, 1)
        return forward, filters, inverse

    @staticmethod
    def _real_output(axis: int, cos: NDArray[Any], sin: NDArray[Any]) -> NDArray[Any]:
        """Σ cos·re − sin·im; of the three products re = k1 − k3 and im = k1 + k2."""
        import numpy as np

        return np.concatenate([cos - sin, -sin, -cos] if axis == 0 else [cos, -sin], 1)

    @staticmethod
    def _pairs_output(axis: int, cos: NDArray[Any], sin: NDArray[Any]) -> NDArray[Any]:
        """(re, im) of Σ (cos + i·sin)·(re + i·im)."""
        import numpy as np

        if axis == 0:
            real, imaginary = [cos - sin, -sin, -cos], [cos + sin, cos, -sin]
        else:
            real, imaginary = [cos, -sin], [sin, cos]
        both = np.stack([np.concatenate(real, 1), np.concatenate(imaginary, 1)], 1)
        return both.reshape(-1, both.shape[-1])
