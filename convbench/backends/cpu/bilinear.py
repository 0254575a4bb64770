"""Matrices of the one-dimensional Winograd (Toom-Cook) algorithm F(m, r): exact rationals, without NumPy.

m outputs of a correlation with r taps take t = m + r − 1 products, one per interpolation point. Sources: Winograd,
"Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015
(arXiv 1509.09308).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

Matrix = tuple[tuple[Fraction, ...], ...]

STANDARD_POINTS = tuple(map(Fraction, ["0", "1", "-1", "1/2", "-1/2", "2", "-2", "3", "-3", "1/3", "-1/3"]))
"""Their first t − 1 are the usual choice; infinity is always added as the last point."""
BETTER_POINTS = tuple(
    tuple(map(Fraction, text.split()))
    for text in (
        "0 1 -2/3 -3/2",
        "0 3/4 -3/4 4/3 -4/3",
        "0 1 2 3/5 -2/3 -5/4",
        "0 1 -1 3/5 -3/5 5/3 -5/3",
        "0 1 -1/2 2/3 -3/4 4/3 -4/3 -5/2",
        "0 1/2 -1/2 4/5 -4/5 5/4 -5/4 2 -2",
        "0 1 1/3 -3/5 -3/4 4/5 -5/4 4/3 -2 5/2",
        "0 1 -1 2/5 -2/5 -2/3 3/4 4/3 -4/3 3 -3",
    )
)
"""The sets of least growth that a random search among fractions of 1 to 5 found, one for each number of points."""
MAX_TILE = len(STANDARD_POINTS) + 1
"""Largest t = m + r − 1 that there are points for."""


@dataclass(frozen=True)
class Bilinear:
    """y = Aᵀ[(G·w) ∘ (Bᵀ·x)] for the m outputs y[i] = Σ_j w[j]·x[i + j] of a tile x of t elements.

    Attributes:
        at: Aᵀ (m, t).
        g: G (t, r).
        bt: Bᵀ (t, t).
    """

    at: Matrix
    g: Matrix
    bt: Matrix

    @cached_property
    def growth(self) -> float:
        """How much more than a plain sum of products it rounds, at worst: √max_ij Σ_p (A_pi·G_pj)²·‖B_p‖².

        Let the product at point p be off by a random relative u. Over operands with independent elements of variance 1
        it has the variance ‖G_p‖²·‖B_p‖², so output i is off by u·√Σ_p A_pi²·‖G_p‖²·‖B_p‖², against u·√r for the r
        plain products: their quotient is the root of a mean over the taps j, here of the maximum. The transposed
        algorithm (dw = Gᵀ[(A·dy) ∘ (Bᵀ·x)]) exchanges i and j, and so has the same maximum. Rows of a Kronecker
        product have the products of the rows' norms, so growths of several axes multiply. Norm-wise form of the
        analysis of Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
        Networks", 2020 (arXiv 1803.10986), with root sums of squares in the place of sums of sizes.
        """
        at, g = _floats(self.at), _floats(self.g)
        norms = [math.fsum(v * v for v in row) for row in _floats(self.bt)]
        return math.sqrt(
            max(
                sum((a * g_row[j]) ** 2 * norm for a, g_row, norm in zip(row, g, norms, strict=True))
                for row in at
                for j in range(len(g[0]))
            )
        )


@lru_cache(maxsize=256)
def winograd(m: int, r: int) -> Bilinear:
    """F(m, r), from the known points of least growth; F(1, r) is the sum of products itself, F(m, 1) m single products.

    Raises:
        ValueError: m or r below 1, or m + r − 1 above MAX_TILE where both exceed 1.
    """
    if m < 1 or r < 1:
        raise ValueError(f"F({m}, {r}): m and r must be at least 1")
    if m == 1:
        return Bilinear(((Fraction(1),) * r,), _identity(r), _identity(r))
    if r == 1:
        return Bilinear(_identity(m), ((Fraction(1),),) * m, _identity(m))
    count = m + r - 2
    if count > len(STANDARD_POINTS):
        raise ValueError(f"F({m}, {r}): m + r - 1 must be at most {MAX_TILE}")
    sets = [STANDARD_POINTS[:count], *(points for points in BETTER_POINTS if len(points) == count)]
    return min((from_points(m, r, points) for points in sets), key=lambda found: found.growth)


def from_points(m: int, r: int, points: tuple[Fraction, ...]) -> Bilinear:
    """F(m, r) from m + r − 2 distinct finite points and infinity.

    The product s of polynomials with r and m coefficients has t = m + r − 1: it is known from its values at t points,
    s = V_t⁻¹[(V_r·w) ∘ (V_m·d)], with V_n the matrix that evaluates n coefficients. Transposed in d that is the
    correlation, y = V_mᵀ[(V_r·w) ∘ (V_t⁻ᵀ·x)]. Rows of V_t⁻ᵀ are the coefficients of the Lagrange polynomials; their
    denominators go to G, so that Bᵀ consists of integers and is exact in floating point.
    """
    t = m + r - 1
    rows = []
    for p in points:
        others = [q for q in points if q != p]
        norm = math.prod((p - q for q in others), start=Fraction(1))
        rows.append([c / norm for c in _with_roots(others)] + [Fraction(0)] * (t - len(points)))
    rows.append(_with_roots(list(points)))
    scales = [_to_integers(row) for row in rows]
    return Bilinear(
        at=tuple(zip(*_evaluation(points, m), strict=True)),
        g=tuple(tuple(v / s for v in row) for row, s in zip(_evaluation(points, r), scales, strict=True)),
        bt=tuple(tuple(v * s for v in row) for row, s in zip(rows, scales, strict=True)),
    )


def _evaluation(points: tuple[Fraction, ...], n: int) -> Matrix:
    """V_n (points and infinity, n): values at the points of a polynomial with n coefficients, lowest first."""
    return (*(tuple(p**i for i in range(n)) for p in points), tuple(Fraction(i == n - 1) for i in range(n)))


def _with_roots(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of Π(z − root)."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [s - root * c for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def _to_integers(row: list[Fraction]) -> Fraction:
    """The factor that makes a row integers without a common divisor."""
    return Fraction(math.lcm(*(v.denominator for v in row)), math.gcd(*(v.numerator for v in row)))


def _identity(n: int) -> Matrix:
    return tuple(tuple(Fraction(i == j) for j in range(n)) for i in range(n))


def _floats(matrix: Matrix) -> list[list[float]]:
    return [[float(v) for v in row] for row in matrix]
