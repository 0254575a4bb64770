"""Shares with their confidence limits, and Markdown tables: what the parts of benchmarks/check.py print."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from scipy.stats import beta

from convbench.compare import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONFIDENCE = 0.95
"""Of each limit by itself: they are one-sided."""


def upper_limit(hits: int, count: int) -> float:
    """What the true share is below, if `hits` of `count` independent trials were hits.

    The share with which so few hits have the probability 1 − CONFIDENCE. Source: Clopper and Pearson, "The use of
    confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26, 1934.
    """
    return 1.0 if hits == count else float(beta.ppf(CONFIDENCE, hits + 1, count - hits))


def lower_limit(hits: int, count: int) -> float:
    """What the true share is above."""
    return 1 - upper_limit(count - hits, count)


def at_most(hits: int, count: int) -> str:
    """A share that should be small: "0.08 %, ≤ 0.19 % (3 of 4000)"."""
    return f"{percent(hits / count)}, ≤ {percent(upper_limit(hits, count))} ({hits} of {count})" if count else "–"


def at_least(hits: int, count: int) -> str:
    """A share that should be large: "98.3 %, ≥ 96.2 % (236 of 240)"."""
    return f"{percent(hits / count)}, ≥ {percent(lower_limit(hits, count))} ({hits} of {count})" if count else "–"


def percent(share: float) -> str:
    """In percent, with more digits near 0 and 1: "0.19 %", "41.0 %", "99.95 %"; 0 and 1 themselves have none."""
    digits = 0 if share in {0, 1} else 1 if 0.01 <= share <= 0.99 else 2
    return f"{100 * share:.{digits}f} %"


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table below its title."""
    print(f"\n{title}\n")
    for cells in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(cells)} |")


def spread(launches: Sequence[float]) -> float:
    """Of one row's log(new / old): the median distance from their median, as the standard deviation of a normal one."""
    middle = median(launches)
    return 1.4826 * median(abs(value - middle) for value in launches)


@dataclass(slots=True)
class Tally:
    """Verdicts of checked suites: `rows` counts (whether it was changed, verdict).

    Shares of false alarms are of the rows that were decided, shares of what was found of all changed rows.
    """

    rows: Counter[tuple[bool, Verdict]] = field(default_factory=Counter)
    suites: int = 0
    suites_alarmed: int = 0
    suites_undecided: int = 0

    def add(self, suite: Iterable[tuple[bool, Verdict]]) -> None:
        """One suite's rows."""
        rows = Counter(suite)
        self.rows += rows
        self.suites += 1
        self.suites_alarmed += rows[False, Verdict.REGRESSION] > 0
        self.suites_undecided += any(verdict is Verdict.INCONCLUSIVE for _, verdict in rows)

    def named(self, verdict: Verdict = Verdict.REGRESSION, *, changed: bool | None = None) -> int:
        """Rows of a verdict: changed ones, others, or all."""
        return sum(n for (was, what), n in self.rows.items() if what is verdict and changed in {was, None})

    @property
    def undecided(self) -> int:
        """Rows."""
        return self.named(Verdict.INCONCLUSIVE)

    def found(self, verdict: Verdict = Verdict.REGRESSION) -> str:
        """Changed rows of that verdict."""
        return at_least(self.named(verdict, changed=True), sum(n for (was, _), n in self.rows.items() if was))

    def alarms(self, verdict: Verdict = Verdict.REGRESSION) -> str:
        """Others of that verdict."""
        unchanged = sum(n for (was, _), n in self.rows.items() if not was)
        return at_most(self.named(verdict, changed=False), unchanged - self.named(Verdict.INCONCLUSIVE, changed=False))

    def faster(self) -> str:
        """Rows that were called faster, changed or not: all of them wrongly."""
        return at_most(self.named(Verdict.IMPROVED), self.rows.total() - self.undecided)
