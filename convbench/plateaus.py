"""Cache levels from a size curve: where bandwidth falls, and how much each level gives. Pure functions.

Rules: docs/method.md, "Ceilings".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.ceilings import CurvePoint

CACHES = ("l2", "l3")
L1_BYTES = 48 << 10
"""Assumed of a thread's L1 where it is not known."""
RAMP = (0.75, 2.0)
"""Multiples of a cache's size between which a working set leaves it: below the first hardly anything misses, above the
second hardly anything is left of it from pass to pass. Between them time per byte rises with the logarithm."""
LEAST_RISE = 0.10
"""Time per byte must rise by this much for a level to be one."""
NOISE = 0.02
"""Relative error of a curve below which a better fit is none."""
AGREES = 2.0
"""Factor within which a step of the curve confirms the size that the system reports: others use caches, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A plateau of a size curve.

    Attributes:
        name: "l2", "l3", "dram".
        low: working sets from this size on, in bytes, have left the level above; `high`: up to this they are in it.
        capacity_bytes: of the cache; None of main memory.
        warning: how the system's word on it and the curve differ; "" where they do not.
    """

    name: str
    low: float
    high: float
    capacity_bytes: int | None = None
    warning: str = ""


def find_levels(curve: Sequence[CurvePoint], reported: Mapping[str, int], first_bytes: int) -> list[Level]:
    """The levels that a curve shows, the nearest first; the last is main memory.

    `reported` are the sizes of l2 and l3 as the threads together see them, as far as the system says; `first_bytes` is
    what they have of the level before, none of which is taken for l2.
    """
    by_size: dict[int, list[float]] = {}
    for point in curve:
        if point.size_bytes >= RAMP[1] * first_bytes:
            by_size.setdefault(point.size_bytes, []).append(math.log(point.bytes_per_s))
    sizes = sorted(by_size)
    if not sizes:
        return []
    costs = [math.exp(-fmean(by_size[size])) for size in sizes]  # of a byte, in seconds, over the mixes
    steps = _steps(sizes, costs, [*reported.values()])
    names = _named(steps, reported)
    levels: list[Level] = []
    low = float(sizes[0])
    for step, name in zip(steps, names, strict=True):
        said = reported.get(name)
        agrees = said is not None and 1 / AGREES <= step / said <= AGREES
        capacity = said if said is not None and agrees else round(step)
        warning = "" if agrees or said is None else _differs(name, said, step)
        low, high = _beyond(name, low, RAMP[0] * step, reported, names), RAMP[0] * step
        levels.append(Level(name=name, low=low, high=high, capacity_bytes=capacity, warning=warning))
        low = RAMP[1] * step
    low = _beyond("dram", low, float(sizes[-1]), reported, names)
    levels.append(Level(name="dram", low=low, high=float(sizes[-1])))
    return [level for level in levels if any(level.low <= size <= level.high for size in sizes)]


def _beyond(name: str, low: float, high: float, reported: Mapping[str, int], seen: Sequence[str]) -> float:
    """Where the plateau of a level begins: beyond reported caches before it that the curve does not show, if it can."""
    nearer = CACHES[: CACHES.index(name)] if name in CACHES else CACHES
    hidden = [RAMP[1] * reported[cache] for cache in nearer if cache in reported and cache not in seen]
    return max([low, *(edge for edge in hidden if edge < high)])


def _differs(name: str, said: int, step: float) -> str:
    return f"{name}: the system says {said / 2**20:.3g} MiB, the size curve shows about {step / 2**20:.2g} MiB"


def _named(steps: Sequence[float], reported: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the caches that end at `steps`: those that the system's sizes fit best; without any the nearest."""
    if not steps:
        return ()
    choices = [*combinations(CACHES, len(steps))]

    def misfit(names: tuple[str, ...]) -> float:
        known = [(step, reported[name]) for step, name in zip(steps, names, strict=True) if name in reported]
        unknown = len(names) - len(known)
        return sum(abs(math.log(step / size)) for step, size in known) + unknown * (math.log(4) if reported else 0)

    return min(choices, key=misfit)


def _steps(sizes: Sequence[int], costs: Sequence[float], reported: Sequence[int]) -> list[float]:
    """Cache sizes of the model that explains the curve: as few as do it, two at most.

    Model: the cost of a byte is that of the first level, and each cache that is left adds to it along RAMP. Sizes that
    the system reports are believed where they explain anything, others where they leave a third less unexplained: noise
    is fitted better by any further parameter.
    """
    inside = [size for size in reported if sizes[0] <= RAMP[0] * size and RAMP[1] * size <= sizes[-1]]
    found = sorted({*(float(size) for size in sizes), *(math.sqrt(a * b) for a, b in pairwise(sizes))})
    found = [size for size in found if sizes[0] <= RAMP[0] * size and RAMP[1] * size <= sizes[-1]]
    best: tuple[float, ...] = ()
    error = _best(sizes, costs, [best])[0]
    for candidates, share in ((inside, 1.0), (found, 0.67)):
        for count in (1, 2):
            left, caches = _best(sizes, costs, [*combinations(sorted(candidates), count)])
            if max(left, NOISE) < share * max(error, NOISE):
                error, best = left, caches
    return [*best]


def _best(
    sizes: Sequence[int], costs: Sequence[float], models: Sequence[tuple[float, ...]]
) -> tuple[float, tuple[float, ...]]:
    """The model, a number of caches, that fits best: the root mean square of its relative error, and its caches.

    Infinity where there is none whose steps all rise by LEAST_RISE.
    """
    import numpy as np

    if not models or len(sizes) <= len(models[0]):
        return math.inf, ()
    low, high = (math.log2(edge) for edge in RAMP)
    caches = np.log2(np.asarray(models, float).reshape(len(models), 1, -1))
    left = np.clip((np.log2(np.asarray(sizes, float))[:, None] - caches - low) / (high - low), 0, 1)
    basis = np.concatenate([np.ones((*left.shape[:2], 1)), left], axis=2) / np.asarray(costs)[:, None]
    weights = np.linalg.pinv(basis).sum(axis=2)[..., None]  # least squares against ones: errors are relative
    errors = np.sqrt(np.mean((basis @ weights - 1)[..., 0] ** 2, axis=1))
    levels = np.cumsum(weights[..., 0], axis=1)
    rising = (levels[:, :1] > 0).all(axis=1) & (levels[:, 1:] >= (1 + LEAST_RISE) * levels[:, :-1]).all(axis=1)
    errors = np.where(rising, errors, np.inf)
    index = int(np.argmin(errors))
    return float(errors[index]), models[index]
