"""Order statistics of measured values: pure functions over plain sequences, which they leave unchanged."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, chain, combinations
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "change", "discoveries", "drifted", "first_quartile", "lower_bound", "median", "median_interval", "moved",
    "pooled_interval", "sign_probability", "trend_probability",
]  # fmt: skip

EXACT_TREND = 40
"""Up to so many values the distribution of Kendall's S is counted; beyond it is taken as normal."""
DRIFT_PROBABILITY = 0.02
LEAST_CANARIES = 6
"""Times of a canary from which its movement shows: a third of fewer is a single one."""


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


def first_quartile(values: Sequence[float]) -> float:
    """The value that a quarter of `values` do not exceed: an order statistic, never between two of them."""
    return sorted(values)[(len(values) - 1) // 4]


def lower_bound(values: Sequence[float], confidence: float = 0.99) -> float | None:
    """What the median exceeds with this confidence, whatever the distribution; None where too few values exist.

    The k-th smallest of n independent values lies above the median with probability P(Binomial(n, ½) < k); k is the
    largest that keeps `confidence`. At 99 % that needs seven values. Source: as `median_interval`.
    """
    rank = _rank(len(values), 2 * confidence - 1)
    return sorted(values)[rank - 1] if rank else None


def sign_probability(values: Sequence[float]) -> float:
    """How probable at least so many values above 0 are by chance: the one-sided sign test; zeros count against.

    P(Binomial(n, ½) ≥ positives), exact. 1 where there are no values.
    Source: Conover, "Practical Nonparametric Statistics", 3rd ed., section 3.4.
    """
    count, positive = len(values), sum(value > 0 for value in values)
    return sum(math.comb(count, k) for k in range(positive, count + 1)) / (1 << count)


def discoveries(probabilities: Sequence[float], rate: float = 0.05) -> list[bool]:
    """Which of many tests count, so that at most a share `rate` of those is expected to be false.

    Source: Benjamini and Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57, 1995.
    """
    ordered = sorted(probabilities)
    count = len(ordered)
    limit = max((p for place, p in enumerate(ordered, 1) if p <= rate * place / count), default=-1.0)
    return [p <= limit for p in probabilities]


def pooled_interval(groups: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float] | None:
    """The interval of the median of all values, widened to enclose each group's own median; None with too few values.

    A group holds the values of one process, which share its bias. Where the bias outweighs all other noise only the
    groups' medians count: P of them enclose the median over all processes with probability 1 − 2^(1 − P), which is
    75 % for three, 94 % for five, 97 % for six (benchmarks/coverage.py).
    """
    filled = [group for group in groups if group]
    interval = median_interval(list(chain.from_iterable(filled)), confidence)
    if interval is None:
        return None
    medians = [median(group) for group in filled]
    return min(interval[0], *medians), max(interval[1], *medians)


def trend_probability(values: Sequence[float]) -> float:
    """How probable an order at least as much up or down as that of `values` is by chance: Mann and Kendall's test.

    S counts the pairs that rise less those that fall; equal ones count nothing, which makes the result too large
    rather than too small. Of the n! orders, those with k falling pairs are counted by Kendall's recursion up to 40
    values; beyond, S is normal with variance n(n − 1)(2n + 5)/18, with a correction for continuity.
    Sources: Mann, "Nonparametric tests against trend", Econometrica 13, 1945; Kendall, "A new measure of rank
    correlation", Biometrika 30, 1938.
    """
    count, pairs = len(values), math.comb(len(values), 2)
    score = abs(sum((b > a) - (b < a) for a, b in combinations(values, 2)))
    if count <= EXACT_TREND:
        fewest = (pairs - score + 1) // 2  # pairs against the trend; half of the equal ones among them
        return min(1.0, 2 * _orders(count)[fewest] / math.factorial(count))
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return math.erfc(max(0, score - 1) / deviation / math.sqrt(2))


@lru_cache(maxsize=EXACT_TREND + 1)
def _orders(count: int) -> list[int]:
    """Orders of `count` different values with at most k falling pairs, for each k."""
    exactly = [1]
    for size in range(2, count + 1):  # one more value stands before 0 to size − 1 of the others
        most = [*accumulate(exactly), *[sum(exactly)] * (size - 1)]
        exactly = [total - (most[k - size] if k >= size else 0) for k, total in enumerate(most)]
    return list(accumulate(exactly))


def change(values: Sequence[float], typical: Callable[[Sequence[float]], float] = median) -> float:
    """Relative change from the first third of `values` to the last, each taken as its median or what else is typical.

    A third has at least one value; `values` has at least one, and none is zero or less.
    """
    first, last = thirds(values)
    return typical(last) / typical(first) - 1


def thirds(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The first and the last third of `values`, of one value at least."""
    third = max(1, len(values) // 3)
    return values[:third], values[-third:]


def drifted(values: Sequence[float]) -> bool:
    """Whether round values, in the order they were measured, went up or down: their median depends on when.

    So it is where the order would come about by chance in 2 of 100 cases, and the medians of the first and the last
    third differ by more than half the width of the median's 95 % interval: less is inside what the interval allows.
    Never below six values. benchmarks/coverage.py says how often it is right.
    """
    interval = median_interval(values)
    if interval is None:
        return False
    first, last = map(median, thirds(values))
    half = (interval[1] - interval[0]) / 2
    return abs(last - first) > half and trend_probability(values) <= DRIFT_PROBABILITY


def moved(values: Sequence[float], tolerance: float = 0.05) -> bool:
    """Whether a canary's times, in order, changed by more than `tolerance` from the first third to the last.

    The fastest of each third is compared: delays lengthen times and never shorten them, so that the minimum is what
    they disturb least. Never below six values.
    """
    return len(values) >= LEAST_CANARIES and abs(change(values, min)) > tolerance
