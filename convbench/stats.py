"""Order statistics of measured values: pure functions over plain sequences, which they leave unchanged."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["median", "median_interval"]


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The distribution-free interval of the median between two order statistics; None where too few values exist.

    The k-th smallest and k-th largest of n independent values enclose the median with probability
    1 − 2·P(Binomial(n, ½) < k); k is the largest that keeps `confidence`. At 95 % that needs six values.
    Source: David and Nagaraja, "Order Statistics", 3rd ed., section 7.1.
    """
    rank = _rank(len(values), confidence)
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[-rank]


@lru_cache(maxsize=1024)
def _rank(count: int, confidence: float) -> int:
    """Largest k with 2·P(Binomial(count, ½) < k) ≤ 1 − confidence."""
    tail, rank = 0, 0
    allowed = Fraction(1 - confidence) / 2 * 2**count  # a float would overflow from 1024 values on
    while rank < count / 2 and (tail := tail + math.comb(count, rank)) <= allowed:
        rank += 1
    return rank
