"""Whether rows became slower, by fresh pairs of processes: one holds the old version, one the new.

Pure functions of log-ratios, one per row and launch. A launch is a fresh pair of processes that measure a row in turn,
a few times each; its value is the median of log(new / old) over these. Launches share no process and so no bias, which
makes their signs independent. Rules and the measurements they rest on: docs/method.md, "Confirmation".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convbench.compare import Reason, Verdict
from convbench.stats import discoveries, lower_bound, median, median_interval, sign_probability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convbench.result import Status

LEAST_LAUNCHES = 12
PAIRS = 3
"""How often a launch measures a row with each version."""
FALSE_RATE = 0.05
"""Share of the regressions named that may be false, over all rows of a check."""
CONFIDENCE = 0.99
NULL = -1
"""The place of the null control among the rows: the new version on both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """One launch of one row.

    Attributes:
        row: its place, or NULL.
        log_ratio: median of log(new / old) over its pairs; None where it could not be measured.
        seconds: medians of the old and of the new side.
        lost: status and reason of the sides, "old" and "new", that could not measure it.
    """

    row: int
    log_ratio: float | None = None
    seconds: tuple[float, float] = (0.0, 0.0)
    lost: Mapping[str, tuple[Status, str]] = field(default_factory=dict)


def launches_needed(rows: int) -> int:
    """Launches from which even one row of so many can be told: its sign test must be able to reach the rate."""
    return max(LEAST_LAUNCHES, math.ceil(math.log2(max(1, rows) / FALSE_RATE)))


def slower(launches: Sequence[float], min_effect: float) -> bool:
    """Whether a row is slower by more than half of `min_effect`, and surely slower at all.

    So a change that is reliably larger than half of the least effect counts.
    """
    bound = lower_bound(launches, CONFIDENCE)
    return bound is not None and bound > 0 and median(launches) > math.log1p(min_effect / 2)


def ratio_interval(launches: Sequence[float]) -> tuple[float, float] | None:
    """Where a row's ratio lies, new over old: both of its bounds hold with CONFIDENCE; None with too few launches."""
    interval = median_interval(launches, 2 * CONFIDENCE - 1)
    return interval and (math.exp(interval[0]), math.exp(interval[1]))


def confirm(
    rows: Sequence[Sequence[float]], null: Sequence[float], min_effects: Sequence[float]
) -> list[tuple[Verdict, Reason]]:
    """Verdict and reason of each row.

    Args:
        rows: log(new / old) of each row's launches.
        null: the same of a row measured with the new version on both sides: where that is slower or faster, or could
            not be measured, nothing is sure.
        min_effects: least relative change that counts, of each row.
    """
    least = min(min_effects, default=0.0)
    if not null or slower(null, least) or slower([-value for value in null], least):
        return [(Verdict.INCONCLUSIVE, Reason.NULL)] * len(rows)
    worse = discoveries([sign_probability(row) for row in rows], FALSE_RATE)
    better = discoveries([sign_probability([-value for value in row]) for row in rows], FALSE_RATE)
    found = []
    for row, least, up, down in zip(rows, min_effects, worse, better, strict=True):
        if len(row) < LEAST_LAUNCHES:
            found.append((Verdict.INCONCLUSIVE, Reason.FEW_LAUNCHES))
        elif up and slower(row, least):
            found.append((Verdict.REGRESSION, Reason.SLOWER))
        elif down and slower([-value for value in row], least):
            found.append((Verdict.IMPROVED, Reason.FASTER))
        else:
            found.append((Verdict.OK, Reason.WITHIN_NOISE))
    return found
