"""Where a plan stands under a machine's ceilings, and what a measured time says about it.

Pure functions of work, ceilings and time. Rules and constants: docs/method.md, "Placement and bound". The roofline is
that of Williams, Waterman and Patterson (2009), with the launch latency added instead of maximised: it fits published
sweeps to 1-3 % instead of 6-13 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from convbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from convbench.ceilings import Ceiling, Ceilings
    from convbench.counts import Cases
    from convbench.work import Phase, Work

CACHE_LEVELS = ("l2", "l3")
"""Caches that a working set may stay in, nearest first. L1 is out of reach of what convbench measures with."""


class Bound(StrEnum):
    """The nearest limiting ceiling, or neither because launches dominate."""

    COMPUTE = "compute"
    BANDWIDTH = "bandwidth"
    LATENCY = "latency"


class Flag(StrEnum):
    """Why a bound should not be taken at its word."""

    ABOVE_ROOF = "above_roof"
    AMBIGUOUS = "ambiguous"
    IMPLEMENTATION = "implementation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The constants of docs/method.md, "Placement and bound".

    Attributes:
        ambiguity_ratio: two times as near as this cannot be told apart.
        confidence: least probability that the larger time is the larger one.
        implementation: below this share of the floor time the model does not explain the measured one.
        above_roof: how far above 1 `attained` may lie, at least; above_roof_sigmas is the same in standard deviations.
        gpu_cache_share: footprint over capacity up to which a GPU's L2 keeps a working set.
        cpu_cache_share: the same for a CPU's caches.
        latency_share: share of the measured time from which launches are the verdict.
    """

    ambiguity_ratio: float = 1.33
    confidence: float = 0.95
    implementation: float = 0.6
    above_roof: float = 0.05
    above_roof_sigmas: float = 3.0
    gpu_cache_share: float = 0.4
    cpu_cache_share: float = 0.5
    latency_share: float = 0.5


DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What the model says of a plan on a machine, before any time is known.

    Attributes:
        compute_s: executed flops over the peak, seconds.
        memory_s: traffic over the bandwidth of each phase's level, seconds.
        latency_s: launches, or the floor measured for the row's algorithm where that is more, seconds.
        bound: the largest of the three; compute before bandwidth before latency where they are equal.
        level: where most of `memory_s` is spent; None where nothing moves.
        levels: the level of each phase.
        ahead: the largest time over the second largest; None where the second is 0.
        confidence: probability that the largest time is larger than the second, from the ceilings' deviations.
        ambiguous: the two largest cannot be told apart.
        sigma: relative standard deviation of `floor_s`, from those of the ceilings.
    """

    compute_s: float
    memory_s: float
    latency_s: float
    bound: Bound
    level: str | None
    levels: tuple[str, ...]
    ahead: float | None
    confidence: float
    ambiguous: bool
    sigma: float

    @property
    def floor_s(self) -> float:
        """T = max(compute, memory) + latency, seconds: no plan of this work should be faster."""
        return max(self.compute_s, self.memory_s) + self.latency_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placements:
    """What the model says of many cases, one entry each; fields as in `Placement`.

    Attributes:
        compute_s: seconds.
        memory_s: seconds.
        latency_s: seconds, the same for all.
        floor_s: seconds.
        bound: positions in `tuple(Bound)`, int8.
        ambiguous: the two largest times cannot be told apart.
    """

    compute_s: NDArray[np.float64]
    memory_s: NDArray[np.float64]
    latency_s: float
    floor_s: NDArray[np.float64]
    bound: NDArray[np.int8]
    ambiguous: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a measured time says.

    Attributes:
        attained: floor time over measured time; never clamped.
        bound: the model's, or LATENCY where launches take half of the measured time or more.
        flag: the first that holds, None where the bound can be taken at its word.
    """

    attained: float
    bound: Bound
    flag: Flag | None


def place(
    work: Work,
    ceilings: Ceilings,
    math_mode: str,
    *,
    warm: bool,
    row_floor_s: float | None = None,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Placement:
    """The placement of `work`, computed in `math_mode` where a phase has none of its own, on a machine with `ceilings`.

    A plan without work, such as one of batch 0, is bound by latency if launches cost anything; where they do not it
    has a floor of 0 and counts as compute, unambiguously.

    Args:
        work: phases in order; their footprints decide the level that they move their bytes at.
        ceilings: of the device.
        math_mode: which peak holds for phases that say nothing else.
        warm: the working set may be in a cache already; cold work comes from main memory.
        row_floor_s: time of the row's algorithm on the smallest problem, seconds; None where it was not measured.
        thresholds: constants of the rules.

    Raises:
        InputError: no ceiling for a math mode, or none for main memory where bytes move there.
    """
    flops = {math_mode: 0}
    for phase in work.phases:
        mode = phase.math_mode or math_mode
        flops[mode] = flops.get(mode, 0) + phase.flops
    computed = {
        mode: count / _ceiling(ceilings.compute, mode, "compute ceiling for math mode").value
        for mode, count in flops.items()
    }
    levels = tuple(_level(phase, ceilings, warm, thresholds) for phase in work.phases)
    moved: dict[str, int] = {}
    for phase, level in zip(work.phases, levels, strict=True):
        moved[level] = moved.get(level, 0) + phase.traffic_bytes
    spent = {
        level: count / _ceiling(ceilings.bandwidth, level, "bandwidth ceiling for").value
        for level, count in moved.items()
        if count
    }
    compute_s, memory_s = sum(computed.values()), sum(spent.values())
    launches = sum(phase.launches for phase in work.phases)
    launch_s = launches * ceilings.launch.value if ceilings.launch else 0.0
    latency_s = max(launch_s, row_floor_s or 0.0)

    # Standard deviations, in seconds: ceilings are independent, all that is spent under one of them is not.
    compute_error_s = math.hypot(*(ceilings.compute[mode].sigma * time for mode, time in computed.items()))
    memory_error_s = math.hypot(*(ceilings.bandwidth[level].sigma * time for level, time in spent.items()))
    launch_error_s = ceilings.launch.sigma * launch_s if ceilings.launch and launch_s == latency_s else 0.0
    parts = (
        (compute_s, compute_error_s, Bound.COMPUTE),
        (memory_s, memory_error_s, Bound.BANDWIDTH),
        (latency_s, launch_error_s, Bound.LATENCY),
    )
    first, second, _ = sorted(parts, key=lambda part: part[0], reverse=True)  # stable: compute first where equal
    floor_s = max(compute_s, memory_s) + latency_s
    confidence = _confidence(first[:2], second[:2])
    near = second[0] > 0 and first[0] / second[0] <= thresholds.ambiguity_ratio
    floor_error_s = math.hypot(max(parts[:2], key=lambda part: part[0])[1], launch_error_s)
    return Placement(
        compute_s=compute_s,
        memory_s=memory_s,
        latency_s=latency_s,
        bound=first[2],
        level=max(spent, key=lambda level: spent[level]) if spent else None,
        levels=levels,
        ahead=first[0] / second[0] if second[0] else None,
        confidence=confidence,
        ambiguous=near or confidence < thresholds.confidence,
        sigma=floor_error_s / floor_s if floor_s else 0.0,
    )


def place_nominal(cases: Cases, ceilings: Ceilings, *, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> Placements:
    """`place` of the nominal work of all cases, out of main memory, in their math mode.

    Raises:
        InputError: no ceiling for the math mode, or none for main memory.
    """
    import statistics

    import numpy as np

    peak = _ceiling(ceilings.compute, cases.math_mode, "compute ceiling for math mode")
    memory = _ceiling(ceilings.bandwidth, "dram", "bandwidth ceiling for")
    compute_s = cases.flops.astype(np.float64) / peak.value
    memory_s = cases.compulsory_bytes.astype(np.float64) / memory.value
    latency_s = float(ceilings.launch.value) if ceilings.launch else 0.0
    high, low = np.maximum(compute_s, memory_s), np.minimum(compute_s, memory_s)

    # Positions in Bound; where times are equal the earlier is the larger.
    computes = compute_s >= memory_s
    first = np.where(high >= latency_s, np.where(computes, 0, 1), 2).astype(np.int8)
    third = np.where(low >= latency_s, 2, np.where(computes, 1, 0)).astype(np.int8)
    first_s, second_s = np.maximum(high, latency_s), np.maximum(low, np.minimum(high, latency_s))
    ahead = np.divide(first_s, second_s, out=np.full(first_s.shape, np.inf), where=second_s > 0)

    # What `place` calls ambiguous, solved for the ratio of the two times, once for each two ceilings.
    sigmas = [peak.sigma, memory.sigma, ceilings.launch.sigma if ceilings.launch else 0.0]
    normal = statistics.NormalDist().inv_cdf(thresholds.confidence)
    limits = np.maximum(thresholds.ambiguity_ratio, np.exp(normal * np.hypot.outer(sigmas, sigmas)))
    return Placements(
        compute_s=compute_s,
        memory_s=memory_s,
        latency_s=latency_s,
        floor_s=high + latency_s,
        bound=first,
        ambiguous=ahead <= limits[first, 3 - first - third],
    )


def judge(placement: Placement, time_s: float, *, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> Judgement:
    """What `time_s`, the measured time in seconds, says of a placement.

    Raises:
        InputError: the time is not above 0.
    """
    if not (math.isfinite(time_s) and time_s > 0):
        raise InputError(f"time_s must be a number above 0, got {time_s!r}")
    attained = placement.floor_s / time_s
    flag = None
    if attained > 1 + max(thresholds.above_roof, thresholds.above_roof_sigmas * placement.sigma):
        flag = Flag.ABOVE_ROOF
    elif placement.ambiguous:
        flag = Flag.AMBIGUOUS
    elif attained < thresholds.implementation:
        flag = Flag.IMPLEMENTATION
    late = placement.latency_s > 0 and placement.latency_s / time_s >= thresholds.latency_share
    return Judgement(attained=attained, bound=Bound.LATENCY if late else placement.bound, flag=flag)


def ridge_point(ceilings: Ceilings, math_mode: str, level: str = "dram") -> float:
    """The intensity, in flop/byte, where the bandwidth of `level` meets the peak of `math_mode`.

    Raises:
        InputError: one of the two ceilings is missing.
    """
    peak = _ceiling(ceilings.compute, math_mode, "compute ceiling for math mode")
    return peak.value / _ceiling(ceilings.bandwidth, level, "bandwidth ceiling for").value


def attainable(ceilings: Ceilings, math_mode: str, level: str, intensity: float) -> float:
    """The roofline, min(peak, intensity · bandwidth) in flop/s, at an intensity in flop/byte.

    Raises:
        InputError: one of the two ceilings is missing.
    """
    peak = _ceiling(ceilings.compute, math_mode, "compute ceiling for math mode")
    return min(peak.value, intensity * _ceiling(ceilings.bandwidth, level, "bandwidth ceiling for").value)


def _ceiling(ceilings: Mapping[str, Ceiling], key: str, what: str) -> Ceiling:
    if key not in ceilings:
        raise InputError(f"no {what} {key}; this machine has {', '.join(sorted(ceilings)) or 'none'}")
    return ceilings[key]


def _level(phase: Phase, ceilings: Ceilings, warm: bool, thresholds: Thresholds) -> str:
    """The nearest cache that keeps a warm phase's footprint, of those whose capacity and bandwidth are both known."""
    share = thresholds.gpu_cache_share if ceilings.is_gpu else thresholds.cpu_cache_share
    for level in CACHE_LEVELS if warm else ():
        capacity = ceilings.capacity_bytes.get(level, 0)
        if level in ceilings.bandwidth and capacity and phase.footprint_bytes <= share * capacity:
            return level
    return "dram"


def _confidence(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Φ(ln(t₁/t₂)/σ) of two (time, standard deviation) pairs, the larger first; 1 where nothing is uncertain."""
    if second[0] <= 0:
        return 1.0
    sigma = math.hypot(first[1] / first[0], second[1] / second[0])  # relative, so of the logarithm
    return 0.5 * (1 + math.erf(math.log(first[0] / second[0]) / sigma / math.sqrt(2))) if sigma else 1.0
